"""
The account backend that asks VoIPGRID's account API.

The client's Authorization header goes to the API unchanged and is kept nowhere: not in a
log, not in an error, and in the memory of accepted answers only as a keyed digest.
"""

from __future__ import annotations

import json
from typing import NoReturn

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.accounts.interface import Account
from middlewared.accounts.remembered import Remembered
from middlewared.clock import Clock
from middlewared.errors import AccessForbidden, AccountsDown, CredentialsRefused
from middlewared.model import SipUserId
from middlewared.outgoing.interface import HttpClient, HttpResponse, OutgoingFailed, TimedOut
from middlewared.waiting import with_fair_timeout

MAX_LOOKUPS = 200
QUIET_S = 10.0
"""
No "down" is logged so long after "answers again": one user's faulty account may fail between
the accounts of others.
"""


@attrs.frozen
class VoipgridSettings:
    """
    Where the API is and how long to wait for it.

    :ivar base_url: may have a path; ``profile_path`` and an account's path are added to it.
    :ivar timeout_s: for one whole look-up, both its requests.
    :ivar text_accounts: whether account_ids are texts, else they are numbers.
    :ivar cache_s: how long an accepted answer may be used again; 0: never.
    """

    base_url: str
    profile_path: str
    timeout_s: float
    cache_s: float
    text_accounts: bool = False


class VoipgridAccounts:
    """Implements :class:`~middlewared.accounts.interface.AccountBackend`."""

    needs_credentials = True
    at_once = MAX_LOOKUPS
    _log = Logger()

    def __init__(self, *, client: HttpClient, clock: Clock, settings: VoipgridSettings) -> None:
        self._client = client
        self._clock = clock
        self._settings = settings
        self._remembered: Remembered[Account] = Remembered()
        self._lookups = 0
        self.up = True
        self._reported_down = False
        self._quiet_until = 0.0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        """Nothing to close: the client belongs to its maker."""

    def reconfigure(self, settings: VoipgridSettings) -> None:
        """Use ``settings`` for the next look-up; answers under other settings are forgotten."""
        if settings != self._settings:
            self._settings = settings
            self._remembered = Remembered()

    async def authenticate(self, authorization: bytes) -> Account:
        """Two GETs with the client's own header: the profile, then its app account."""
        settings, remembered = self._settings, self._remembered
        known = remembered.get(authorization, self._clock.seconds())
        if known is not None:
            return known
        if self._lookups >= MAX_LOOKUPS:
            raise AccountsDown(f"{MAX_LOOKUPS} look-ups are already waiting for the account API")
        self._lookups += 1
        try:
            account = await self._look_up(authorization, settings)
        except AccountsDown as error:
            self._note(False, str(error))
            raise
        except (CredentialsRefused, AccessForbidden):
            self._note(True)
            raise
        finally:
            self._lookups -= 1
        self._note(True)
        if settings.cache_s:
            now = self._clock.seconds()
            remembered.put(authorization, account, now, keep_s=settings.cache_s)
        return account

    async def _look_up(self, authorization: bytes, settings: VoipgridSettings) -> Account:
        both = Deferred.fromCoroutine(self._ask(authorization, settings))
        return await with_fair_timeout(both, settings.timeout_s, self._clock, _too_slow)

    async def _ask(self, authorization: bytes, settings: VoipgridSettings) -> Account:
        base, timeout_s = settings.base_url.rstrip("/"), settings.timeout_s
        profile = await self._get(base + settings.profile_path, authorization, timeout_s)
        path = _app_account(profile)
        account = await self._get(base + path, authorization, timeout_s)
        return Account(_sip_user_id(account, settings.text_accounts))

    async def _get(self, url: str, authorization: bytes, timeout_s: float) -> dict[str, object]:
        try:
            reply = await self._request(url, authorization, timeout_s)
        except TimedOut:
            _too_slow()
        except OutgoingFailed as error:
            raise AccountsDown(f"the account API cannot be reached: {error}") from error
        if reply.status == 401:
            raise CredentialsRefused("the account API refused the credentials")
        if reply.status == 403:
            raise AccessForbidden("the account API forbade the account")
        return _object(reply)

    async def _request(self, url: str, authorization: bytes, timeout_s: float) -> HttpResponse:
        """One GET, repeated once: the API may just have closed the kept connection."""
        headers: dict[str, str | bytes] = {
            "Authorization": authorization,
            "Accept": "application/json",
        }
        for last in (False, True):
            try:
                return await self._client.request("GET", url, headers=headers, timeout_s=timeout_s)
            except TimedOut:
                raise
            except OutgoingFailed:
                if last:
                    raise
        raise AssertionError("not reached")

    def _note(self, up: bool, why: str = "") -> None:
        """Log a change, at most once in a while."""
        now = self._clock.seconds()
        if up and self._reported_down:
            self._log.info("the account API answers again")
            self._reported_down, self._quiet_until = False, now + QUIET_S
        elif not (up or self._reported_down) and now >= self._quiet_until:
            self._log.warn("account API down: {why}", why=why)
            self._reported_down = True
        self.up = up


def _too_slow() -> NoReturn:
    raise AccountsDown("the account API did not answer in time") from None


def _object(reply: HttpResponse) -> dict[str, object]:
    if reply.status != 200:
        raise AccountsDown(f"the account API answered {reply.status}")
    if not reply.complete:
        raise AccountsDown("the account API's answer is too long")
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError):
        raise AccountsDown("the account API's answer is not JSON") from None
    if not isinstance(value, dict):
        raise AccountsDown("the account API's answer is not a JSON object")
    return value


def _app_account(profile: dict[str, object]) -> str:
    """
    The path of the app account.

    Anything but a plain path could carry the credentials to another host, as
    ``@other.example/`` would after the base URL.
    """
    if "app_account" in profile and profile["app_account"] is None:
        raise AccessForbidden("the user has no app account")
    path = profile.get("app_account")
    if not isinstance(path, str) or not path.startswith("/") or path.startswith("//"):
        raise AccountsDown("the account API's app_account is not a path")
    if not path.isascii() or not path.isprintable() or " " in path or "\\" in path:
        raise AccountsDown("the account API's app_account is not a path")
    return path


def _sip_user_id(account: dict[str, object], text_accounts: bool) -> SipUserId:
    """
    The account's id, which may come as number or text.

    :param text_accounts: whether any text is an account of ours, or only digits are.
    """
    value = account.get("account_id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise AccountsDown("the account API's account_id is missing")
    text = str(value)
    if text_accounts:
        return text
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or str(int(text)) != text:
        raise AccessForbidden("the account is no SIP account")
    return int(text)
