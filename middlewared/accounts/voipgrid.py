"""
The account backend that asks VoIPGRID's account API.

The one invariant: the caller's Authorization header goes to the API as it came and
stays nowhere: not in a log, an error or the memory of answers, which knows it by a keyed
hash alone.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from typing import NoReturn

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.accounts.interface import Account
from middlewared.clock import Clock
from middlewared.errors import AccessForbidden, AccountsDown, CredentialsRefused
from middlewared.outgoing.interface import HttpClient, HttpResponse, OutgoingFailed, TimedOut
from middlewared.waiting import with_fair_timeout

MAX_LOOKUPS = 200
MAX_REMEMBERED = 20_000
QUIET_S = 10.0
"""After "answers again": one user's odd account may fail between the others' good ones."""


@attrs.frozen
class VoipgridSettings:
    """
    Where the API is and how long to wait for it.

    :ivar base_url: may have a path; ``profile_path`` and an account's path are added to it.
    :ivar timeout_s: for one whole look-up, both its requests.
    :ivar cache_s: how long a positive answer may be used again; 0: never.
    """

    base_url: str
    profile_path: str
    timeout_s: float
    cache_s: float


class VoipgridAccounts:
    """
    Implements :class:`~middlewared.accounts.interface.AccountBackend`.

    :ivar settings: may be replaced while it runs.
    :ivar up: whether the API's last answer was usable.
    """

    needs_credentials = True
    at_once = MAX_LOOKUPS
    _log = Logger()

    def __init__(self, *, client: HttpClient, clock: Clock, settings: VoipgridSettings) -> None:
        self._client = client
        self._clock = clock
        self._remembered = _Remembered()
        self._lookups = 0
        self._settings = settings
        self.up = True
        self._told_down = False
        self._quiet_until = 0.0

    @property
    def settings(self) -> VoipgridSettings:
        """The settings of the next look-up; what was remembered under others is forgotten."""
        return self._settings

    @settings.setter
    def settings(self, settings: VoipgridSettings) -> None:
        if settings != self._settings:
            self._settings = settings
            self._remembered = _Remembered()

    async def authenticate(self, authorization: bytes) -> Account:
        """Two GETs with the caller's own header: the profile, then its app account."""
        settings, remembered = self._settings, self._remembered
        known = remembered.get(authorization, self._clock.seconds())
        if known is not None:
            return known
        if self._lookups >= MAX_LOOKUPS:
            raise AccountsDown(f"{MAX_LOOKUPS} look-ups wait for the account API already")
        self._lookups += 1
        try:
            account = await self._look_up(authorization, settings)
        except AccountsDown as error:
            self._became(False, str(error))
            raise
        except (CredentialsRefused, AccessForbidden):
            self._became(True)
            raise
        finally:
            self._lookups -= 1
        self._became(True)
        if settings.cache_s:
            until = self._clock.seconds() + settings.cache_s
            remembered.put(authorization, account, until)
        return account

    async def _look_up(self, authorization: bytes, settings: VoipgridSettings) -> Account:
        timeout_s = settings.timeout_s
        both = Deferred.fromCoroutine(self._ask(authorization, settings, timeout_s))
        return await with_fair_timeout(both, timeout_s, self._clock, _too_slow)

    async def _ask(
        self, authorization: bytes, settings: VoipgridSettings, timeout_s: float
    ) -> Account:
        base = settings.base_url.rstrip("/")
        profile = await self._get(base + settings.profile_path, authorization, timeout_s)
        path = _app_account(profile)
        account = await self._get(base + path, authorization, timeout_s)
        return Account(_sip_user_id(account))

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
        """One GET; repeated once, since the API may have closed the kept connection just now."""
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

    def _became(self, up: bool, why: str = "") -> None:
        now = self._clock.seconds()
        if up and self._told_down:
            self._log.info("the account API answers again")
            self._told_down, self._quiet_until = False, now + QUIET_S
        elif not (up or self._told_down) and now >= self._quiet_until:
            self._log.warn("account API down: {why}", why=why)
            self._told_down = True
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


def _sip_user_id(account: dict[str, object]) -> int:
    """The account's number; a text that no number is written as can be nobody's."""
    value = account.get("account_id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise AccountsDown("the account API's account_id is missing")
    text = str(value)
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or str(int(text)) != text:
        raise AccessForbidden("the account is no SIP account")
    return int(text)


class _Remembered:
    """Positive answers, the most recently used ones; the key dies with the process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._accounts: OrderedDict[bytes, tuple[Account, float]] = OrderedDict()

    def get(self, authorization: bytes, now: float) -> Account | None:
        if not self._accounts:
            return None
        name = self._name(authorization)
        account, until = self._accounts.get(name, (None, 0.0))
        if now < until:
            self._accounts.move_to_end(name)
            return account
        self._accounts.pop(name, None)
        return None

    def put(self, authorization: bytes, account: Account, until: float) -> None:
        name = self._name(authorization)
        self._accounts[name] = account, until
        self._accounts.move_to_end(name)
        if len(self._accounts) > MAX_REMEMBERED:
            self._accounts.popitem(last=False)

    def _name(self, authorization: bytes) -> bytes:
        return hashlib.blake2b(authorization, key=self._key, digest_size=32).digest()
