"""
The account backends that check no credentials: ``none`` turns every request away, ``open``
lets every request in.
"""

from __future__ import annotations

from middlewared.accounts.interface import Account
from middlewared.errors import AccountsDown


class NoAccounts:
    """
    Device routes are off; implements :class:`~middlewared.accounts.interface.AccountBackend`.

    The answer is "not now", never "refused": apps log their user out on a 401.
    """

    needs_credentials = False
    at_once = 1
    up = None

    def reconfigure(self, settings: None) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def authenticate(self, authorization: bytes) -> Account:  # noqa: ARG002
        raise AccountsDown("device routes are off: [accounts] backend = none")


class OpenAccounts(NoAccounts):
    """
    For networks where everyone who reaches the port is trusted.

    Chosen by the configuration alone, which warns about it; no failure leads here.
    """

    async def authenticate(self, authorization: bytes) -> Account:  # noqa: ARG002
        return Account(None)
