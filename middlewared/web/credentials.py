"""
Whose request is this?

The one invariant: a 401 is given only for missing credentials or when the account
backend itself refused them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Hashable

from middlewared.accounts.interface import Account, AccountBackend
from middlewared.clock import Clock
from middlewared.errors import AccessForbidden, BadRequest, CredentialsRefused
from middlewared.web.calls import address_of
from middlewared.web.endpoint import fields_of
from middlewared.web.replies import BodyTooLarge, CredentialsMissing, UnsupportedMediaType
from middlewared.web.request import Request
from middlewared.web.settings import WebSettings
from middlewared.web.throttle import Throttle


class Credentials:
    """Asks the account backend, and slows down those who guess."""

    def __init__(
        self,
        *,
        clock: Clock,
        accounts: AccountBackend,
        settings: Callable[[], WebSettings],
    ) -> None:
        self._clock = clock
        self._accounts = accounts
        self._settings = settings
        self._throttle = Throttle()

    async def account(self, request: Request) -> Account:
        """
        The account whose credentials came with ``request``.

        :raises CredentialsMissing: there are none.
        :raises CredentialsRefused: the backend said 401.
        :raises AccessForbidden: the backend said 403.
        :raises AccountsDown: the backend cannot tell.
        :raises TooManyRefusals: the same client guessed too often.
        """
        authorization = request.requestHeaders.getRawHeaders(b"authorization", [b""])[-1]
        if not authorization and self._accounts.needs_credentials:
            raise CredentialsMissing("no Authorization header")
        settings = self._settings()
        guessers = _guessers(request, authorization, settings)
        self._throttle.check(guessers, settings.refusals_allowed, self._clock.seconds())
        try:
            return await self._accounts.authenticate(authorization)
        except CredentialsRefused:
            self._throttle.refused(guessers, settings.refusals_window_s, self._clock.seconds())
            raise


def require_owner(account: Account, sip_user_id: int) -> None:
    """
    :raises AccessForbidden: the account is another one than ``sip_user_id``.
    """
    if not account.owns(sip_user_id):
        raise AccessForbidden("another account")


def _guessers(
    request: Request, authorization: bytes, settings: WebSettings
) -> tuple[Hashable, Hashable]:
    """
    Whom to count a refusal against: the address with the account that is asked for, and
    with the login that is tried, since the two need not belong together.
    """
    address = address_of(request, settings)
    return (address, "for", _claimed_account(request)), (address, "as", _login(authorization))


def _claimed_account(request: Request) -> str | None:
    # Peeked at before its turn, so nothing wrong with it may show.
    try:
        return (fields_of(request).get("sip_user_id") or "")[:32]
    except (BodyTooLarge, UnsupportedMediaType, BadRequest):
        return None


def _login(authorization: bytes) -> int:
    """A hash of the login: of "user" in Basic base64(user:secret) and in Token user:secret."""
    scheme, _, parameters = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            parameters = base64.b64decode(parameters)
        except binascii.Error:
            return hash(b"")
    return hash(parameters.partition(b":")[0])
