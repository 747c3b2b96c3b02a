"""
The account backend: whose credentials are these?

The one invariant: "refused" is said only when the backend itself said it; every other
trouble is AccountsDown, because apps log their user out on a 401.
"""

from __future__ import annotations

from typing import Protocol

import attrs


@attrs.frozen
class Account:
    """An account whose credentials were accepted."""

    sip_user_id: int | None
    """The one account these credentials speak for; None: any (backend ``open``)."""

    def owns(self, sip_user_id: int) -> bool:
        """Whether these credentials may speak for ``sip_user_id``."""
        return self.sip_user_id is None or self.sip_user_id == sip_user_id


class AccountBackend(Protocol):
    """Judges the Authorization header of an app's request."""

    @property
    def needs_credentials(self) -> bool:
        """
        False for ``open`` and ``none``: they judge a request without an Authorization
        header like any other; ``authenticate`` is then called with ``b""``.
        """

    @property
    def at_once(self) -> int:
        """How many attempts are worth being judged at a time; more only wait in there."""

    async def authenticate(self, authorization: bytes) -> Account:
        """
        Ask whose credentials these are.

        :param authorization: the caller's Authorization header, any scheme, unchanged.
        :raises CredentialsRefused: the backend said 401.
        :raises AccessForbidden: the backend said 403, or there is no app account.
        :raises AccountsDown: time-out, unreachable, redirect, 5xx, not JSON, wrong shape.
        """
