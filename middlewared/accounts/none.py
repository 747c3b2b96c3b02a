"""
No account backend: device routes are off.

The one invariant: the answer is "not now" with or without credentials, never "refused",
because apps log their user out on a 401.
"""

from __future__ import annotations

from middlewared.accounts.interface import Account
from middlewared.errors import AccountsDown


class NoAccounts:
    """Implements :class:`~middlewared.accounts.interface.AccountBackend`."""

    needs_credentials = False
    at_once = 1

    async def authenticate(self, authorization: bytes) -> Account:  # noqa: ARG002
        raise AccountsDown("device routes are off: [accounts] backend = none")
