"""
Whose request is this?

The one invariant: a 401 is given only for missing credentials or when the account
backend itself refused them.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Callable, Hashable

from middlewared.accounts.interface import Account, Authenticator
from middlewared.clock import Clock
from middlewared.errors import AccessForbidden, BadRequest
from middlewared.web import fields
from middlewared.web.calls import address_of
from middlewared.web.endpoint import fields_of
from middlewared.web.guesses import Guesses
from middlewared.web.networks import counted_as
from middlewared.web.replies import BodyTooLarge, CredentialsMissing, UnsupportedMediaType
from middlewared.web.request import Request
from middlewared.web.settings import WebSettings
from middlewared.web.token_buckets import Buckets


class Use(enum.Enum):
    """What an account's credentials are used for; each has a limit."""

    REGISTRATION = "registrations"
    REPORT = "reports"


class Authentication:
    """Asks the account backend, slows down those who guess, and limits those who may."""

    def __init__(
        self,
        *,
        clock: Clock,
        accounts: Authenticator,
        settings: Callable[[], WebSettings],
    ) -> None:
        self._clock = clock
        self._accounts = accounts
        self._settings = settings
        self._guesses = Guesses(clock=clock, places=accounts.at_once)
        self._used = {use: Buckets(use.value) for use in Use}

    async def account(self, request: Request, use: Use) -> Account:
        """
        The account whose credentials came with ``request``, which it may ``use`` now.

        :raises CredentialsMissing: there are none.
        :raises CredentialsRefused: the backend said 401.
        :raises AccessForbidden: the backend said 403.
        :raises AccountsDown: the backend cannot tell.
        :raises TooManyRequests: the same client guessed, or the account asked, too often.
        :raises BadRequest: the credentials are anyone's, and ``request`` is for no account.
        """
        account = await self._authenticate(request)
        settings = self._settings()
        spender = account.sip_user_id
        if spender is None:
            spender = fields.sip_user_id(fields_of(request), settings)
        rate = settings.registrations if use is Use.REGISTRATION else settings.reports
        self._used[use].take(spender, rate, self._clock.seconds())
        return account

    async def _authenticate(self, request: Request) -> Account:
        authorization = request.requestHeaders.getRawHeaders(b"authorization", [b""])[-1]
        if not self._accounts.needs_credentials:
            return await self._accounts.authenticate(authorization)
        if not authorization:
            raise CredentialsMissing("no Authorization header")
        settings = self._settings()
        return await self._guesses.attempt(
            counted_as(address_of(request, settings)),
            lambda: (
                ("for", _claimed_account(request, settings)),
                ("as", _login(authorization)),
            ),
            settings,
            lambda: self._accounts.authenticate(authorization),
        )


def require_owner(account: Account, sip_user_id: int) -> None:
    """
    :raises AccessForbidden: the account is another one than ``sip_user_id``.
    """
    if not account.owns(sip_user_id):
        raise AccessForbidden("another account")


def _claimed_account(request: Request, settings: WebSettings) -> Hashable:
    """The account that is asked for; all that are none count as one."""
    # Peeked at before its turn, so nothing wrong with it may show.
    try:
        return fields.sip_user_id(fields_of(request), settings)
    except (BodyTooLarge, UnsupportedMediaType, BadRequest):
        return None


def _login(authorization: bytes) -> int:
    """
    A hash of the login: of "user" in Basic base64(user:secret) and in Token user:secret.

    Account backends take it in any case and with blanks around it.
    """
    scheme, _, parameters = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            parameters = base64.b64decode(parameters)
        except binascii.Error:
            return hash("")
    login = parameters.partition(b":")[0].decode("utf-8", "replace")
    return hash(login.strip().casefold())
