"""How the end of a call affects its device."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from middlewared.calls.device_updates import wakeup
from middlewared.model import Device, Outcome, Platform, Wakeup

DEVICE = Device(123456789, Platform.ANDROID, "com.example", "token")


class WakeupTests(SynchronousTestCase):
    """The silent streak."""

    def test_answers_of_either_kind(self) -> None:
        """A phone that answers is not silent, however the call ends."""
        for outcome in (Outcome.ANSWERED, Outcome.UNAVAILABLE, Outcome.TIMEOUT, None):
            found = wakeup(DEVICE, outcome, accepted=1, answered_at=5.0)
            self.assertEqual(found, Wakeup(DEVICE, 5.0))

    def test_silence(self) -> None:
        """Only a call that waited its full time after an accepted push counts."""
        for outcome in (*Outcome, None):
            found = wakeup(DEVICE, outcome, accepted=2, answered_at=None)
            self.assertEqual(found, Wakeup(DEVICE, None) if outcome is Outcome.TIMEOUT else None)
        self.assertIsNone(wakeup(DEVICE, Outcome.TIMEOUT, accepted=0, answered_at=None))
