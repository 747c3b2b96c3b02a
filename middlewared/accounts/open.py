"""
The account backend that asks nobody, for networks where whoever reaches the port is trusted.

The one invariant: it is chosen by the configuration, which warns about it; no fault of
another backend leads here.
"""

from __future__ import annotations

from middlewared.accounts.interface import Account


class OpenAccounts:
    """Implements :class:`~middlewared.accounts.interface.AccountBackend`: all are welcome."""

    needs_credentials = False
    at_once = 1

    async def authenticate(self, authorization: bytes) -> Account:  # noqa: ARG002
        return Account(None)
