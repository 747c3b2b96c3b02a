"""The throttle against guessing."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from middlewared.web.replies import TooManyRefusals
from middlewared.web.throttle import Throttle


class ThrottleTests(SynchronousTestCase):
    def test_guesser_is_stopped_until_the_window_ends(self) -> None:
        """The refusal says when that is; others go on."""
        throttle = Throttle()
        for _ in range(3):
            throttle.check(["guesser"], 3, 100.0)
            throttle.refused(["guesser"], 60.0, 100.0)
        with self.assertRaises(TooManyRefusals) as stopped:
            throttle.check(["other", "guesser"], 3, 130.5)
        self.assertEqual(stopped.exception.retry_after_s, 30)
        throttle.check(["other"], 3, 130.5)
        throttle.check(["guesser"], 3, 160.0)

    def test_table_is_bounded(self) -> None:
        """The guesser whose window is the oldest is forgotten first."""
        throttle = Throttle(max_guessers=2)
        for number in range(4):
            throttle.refused([number], 60.0, 100.0 + number)
        for number, known in ((0, False), (1, False), (2, True), (3, True)):
            if known:
                self.assertRaises(TooManyRefusals, throttle.check, [number], 1, 110.0)
            else:
                throttle.check([number], 1, 110.0)
