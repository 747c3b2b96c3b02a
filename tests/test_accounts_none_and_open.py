"""The account backends that check no credentials."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from middlewared.accounts.interface import AccountBackend
from middlewared.accounts.none_and_open import NoAccounts, OpenAccounts
from middlewared.errors import AccountsDown


class OpenAccountsTests(SynchronousTestCase):
    """Backend ``open``."""

    def test_everyone_has_access_to_every_account(self) -> None:
        """With and without credentials, good or bad."""
        backend = OpenAccounts()
        self.assertFalse(backend.needs_credentials)
        for header in (b"", b"Basic !!!", b"Token x"):
            account = self.successResultOf(Deferred.fromCoroutine(backend.authenticate(header)))
            self.assertTrue(account.owns(1))
            self.assertTrue(account.owns(123456789))

    def test_life(self) -> None:
        """No service is asked, so none is reported as up."""
        backends: list[AccountBackend[None]] = [OpenAccounts(), NoAccounts()]
        for backend in backends:
            self.successResultOf(Deferred.fromCoroutine(backend.start()))
            backend.reconfigure(None)
            self.assertIsNone(backend.up)
            self.successResultOf(Deferred.fromCoroutine(backend.stop()))


class NoAccountsTests(SynchronousTestCase):
    """Backend ``none``."""

    def test_no_one_is_refused_for_good(self) -> None:
        """Without a backend it is 503 for all: a 401 would log the app's user out."""
        backend = NoAccounts()
        self.assertFalse(backend.needs_credentials)
        for header in (b"", b"Basic YTpi"):
            self.failureResultOf(Deferred.fromCoroutine(backend.authenticate(header)), AccountsDown)
