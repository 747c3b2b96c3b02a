"""
What every account backend that checks credentials must do.

``AccountBackendContract`` is mixed into a TestCase whose ``backend`` knows one account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.trial.unittest import TestCase

from middlewared.accounts.interface import Account, AccountBackend
from middlewared.errors import CredentialsRefused

ACCOUNT = 123456789

if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object  # a contract alone is no test, so no runner may collect it


class AccountBackendContract(_Case):
    """``backend`` accepts ``good`` as ACCOUNT and refuses ``bad``."""

    backend: AccountBackend[Any]
    good: bytes
    bad: bytes

    async def test_good_credentials_are_for_one_account(self) -> None:
        """An accepted user owns one account."""
        account = await self.backend.authenticate(self.good)
        self.assertEqual(account, Account(ACCOUNT))
        self.assertTrue(account.owns(ACCOUNT))
        self.assertFalse(account.owns(ACCOUNT + 1))

    async def test_bad_credentials_are_refused(self) -> None:
        """Wrong credentials are refused each time, and right ones are accepted afterwards."""
        for _ in range(2):
            with self.assertRaises(CredentialsRefused):
                await self.backend.authenticate(self.bad)
        await self.backend.authenticate(self.good)

    async def test_a_refusal_is_an_answer(self) -> None:
        """A backend that refuses credentials is not down."""
        with self.assertRaises(CredentialsRefused):
            await self.backend.authenticate(self.bad)
        self.assertIsNot(self.backend.up, False)

    async def test_good_and_bad_at_once(self) -> None:
        """Concurrent requests get their own answers."""
        headers = [self.good, self.bad, self.good, self.bad]
        asked = [Deferred.fromCoroutine(self.backend.authenticate(h)) for h in headers]
        results = await DeferredList(asked, consumeErrors=True)
        self.assertEqual([success for success, _ in results], [True, False, True, False])

    async def test_credentials_are_required(self) -> None:
        """A request without an Authorization header is not let in."""
        self.assertTrue(self.backend.needs_credentials)

    async def test_no_refusal_repeats_the_credentials(self) -> None:
        """The text of an error goes to the log."""
        with self.assertRaises(CredentialsRefused) as caught:
            await self.backend.authenticate(self.bad)
        text = repr(caught.exception) + str(caught.exception)
        self.assertNotIn(self.bad.decode(), text)
        self.assertNotIn(self.bad.split()[1].decode(), text)
