"""The account backends that ask nobody."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from middlewared.accounts.none import NoAccounts
from middlewared.accounts.open import OpenAccounts
from middlewared.errors import AccountsDown


class OpenAccountsTests(SynchronousTestCase):
    """Backend ``open``."""

    def test_everybody_speaks_for_every_account(self) -> None:
        """With and without credentials, good or bad."""
        backend = OpenAccounts()
        self.assertFalse(backend.needs_credentials)
        for header in (b"", b"Basic !!!", b"Token x"):
            account = self.successResultOf(Deferred.fromCoroutine(backend.authenticate(header)))
            self.assertTrue(account.owns(1))
            self.assertTrue(account.owns(123456789))


class NoAccountsTests(SynchronousTestCase):
    """Backend ``none``."""

    def test_nobody_is_refused_for_good(self) -> None:
        """Without a backend it is 503 for all: a 401 would log the app's user out."""
        backend = NoAccounts()
        self.assertFalse(backend.needs_credentials)
        for header in (b"", b"Basic YTpi"):
            self.failureResultOf(Deferred.fromCoroutine(backend.authenticate(header)), AccountsDown)
