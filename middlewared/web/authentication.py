"""
Finds the account that a request comes from.

A 401 is given only for missing credentials, or when the account backend itself refused them.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable

from middlewared.accounts.interface import Account, Authenticator
from middlewared.basic_auth import decode_basic
from middlewared.clock import Clock
from middlewared.errors import AccessForbidden, BadRequest
from middlewared.model import SipUserId
from middlewared.web import fields
from middlewared.web.client_address import rate_limit_key
from middlewared.web.login_throttle import LoginThrottle
from middlewared.web.replies import BodyTooLarge, CredentialsMissing, UnsupportedMediaType
from middlewared.web.request import Request
from middlewared.web.token_buckets import TokenBuckets


class CredentialUse(enum.Enum):
    """What an account's credentials are used for; each use has a limit."""

    REGISTRATION = "registrations"
    REPORT = "reports"


class Authentication:
    """Asks the account backend, throttles failed logins, and limits requests of an account."""

    def __init__(self, *, clock: Clock, accounts: Authenticator) -> None:
        self._clock = clock
        self._accounts = accounts
        self._throttle = LoginThrottle(clock=clock, slots=accounts.at_once)
        self._uses = {use: TokenBuckets(use.value) for use in CredentialUse}

    async def account(self, request: Request, use: CredentialUse) -> Account:
        """
        The account whose credentials came with ``request``.

        :param use: counts against the account's limit.
        :raises CredentialsMissing: there are none.
        :raises CredentialsRefused: the backend answered 401.
        :raises AccessForbidden: the backend answered 403.
        :raises AccountsDown: the backend could not answer.
        :raises TooManyRequests: too many failed logins of the client, or uses of the account.
        :raises BadRequest: the backend accepts anyone, and ``request`` names no account.
        """
        account = await self._authenticate(request)
        settings = request.settings
        sip_user_id = account.sip_user_id
        if sip_user_id is None:
            sip_user_id = fields.sip_user_id(request.fields(), settings)
        rate = settings.registrations if use is CredentialUse.REGISTRATION else settings.reports
        self._uses[use].take(sip_user_id, rate, self._clock.seconds())
        return account

    async def _authenticate(self, request: Request) -> Account:
        authorization = request.requestHeaders.getRawHeaders(b"authorization", [b""])[-1]
        if not self._accounts.needs_credentials:
            return await self._accounts.authenticate(authorization)
        if not authorization:
            raise CredentialsMissing("no Authorization header")
        return await self._throttle.attempt(
            rate_limit_key(request.address),
            lambda: (("for", _claimed_account(request)), ("as", _login(authorization))),
            request.settings,
            lambda: self._accounts.authenticate(authorization),
        )


def require_owner(account: Account, sip_user_id: SipUserId) -> None:
    """
    :raises AccessForbidden: ``sip_user_id`` is another account.
    """
    if not account.owns(sip_user_id):
        raise AccessForbidden("another account")


def _claimed_account(request: Request) -> Hashable:
    """The account that the request is for; all that cannot be read count as one."""
    # The body is read before credentials are checked, so its faults must not show yet.
    try:
        return fields.sip_user_id(request.fields(), request.settings)
    except (BodyTooLarge, UnsupportedMediaType, BadRequest):
        return None


def _login(authorization: bytes) -> int:
    """
    A hash of the login: of "user" in Basic base64(user:secret) and in Token user:secret.

    Account backends ignore its case and outer blanks. All malformed ones count as one.
    """
    scheme, _, parameters = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        # As the most lenient backend reads it, or one login would have many names.
        login, _ = decode_basic(parameters, lenient=True) or ("", "")
    else:
        login = parameters.partition(b":")[0].decode("utf-8", "replace")
    return hash(login.strip().casefold())
