"""Overload: which turns of the event loop are late, and which new calls are taken."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.calls.overload import ADMIT_S, BURST_CALLS, GRACE_S, SHORT_TURN_S, Overload
from middlewared.metrics import Metrics


class OverloadTests(SynchronousTestCase):
    """The test plays the event loop."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.overload = Overload(clock=self.clock, metrics=self.metrics)

    def turn(self, length_s: float, *, idle: bool = False, calls: int = BURST_CALLS) -> None:
        self.overload.turn_ended()
        self.overload.turn_began(idle)
        for _ in range(calls):
            self.overload.taken()
        self.clock.advance(length_s)

    def test_without_turns_no_call_is_refused(self) -> None:
        """On a reactor that does not show them nothing is known of its lateness."""
        for _ in range(100):
            self.clock.advance(1.0)
            self.overload.taken()
            self.assertTrue(self.overload.admits())

    def test_short_turns_take_every_call(self) -> None:
        """A loop that is always busy, but never for long, is not late."""
        for _ in range(100):
            self.turn(SHORT_TURN_S * 0.9)
            self.assertTrue(self.overload.admits())

    def test_long_turns_take_calls_in_their_first_part(self) -> None:
        """Work that queues for longer than a burst: new calls get the time that is left."""
        for _ in range(8):
            self.turn(0.05)
        self.assertTrue(self.overload.late)
        self.assertFalse(self.overload.admits())
        self.turn(ADMIT_S / 2)
        self.assertTrue(self.overload.admits())
        self.clock.advance(ADMIT_S)
        self.assertFalse(self.overload.admits())

    def test_a_burst_is_no_overload(self) -> None:
        """A turn that is long once refuses nothing."""
        self.turn(0.001)
        self.turn(GRACE_S * 0.9)
        self.assertTrue(self.overload.admits())

    def test_a_pause_is_no_overload(self) -> None:
        """The process was stopped for seconds: what few calls it then finds, it takes."""
        for _ in range(3):
            self.turn(4.5, calls=BURST_CALLS // 4)
            self.assertTrue(self.overload.admits())

    def test_a_turn_that_lasts_refuses_the_rest_of_its_calls(self) -> None:
        """However suddenly the load came, a refusal does not wait for the turn to end."""
        self.turn(0.001)
        self.turn(GRACE_S * 1.1)
        self.assertFalse(self.overload.admits())

    def test_a_short_turn_ends_the_overload(self) -> None:
        """Nothing is remembered of it."""
        for _ in range(8):
            self.turn(0.05)
        self.turn(SHORT_TURN_S / 2)
        self.turn(0.0)
        self.assertFalse(self.overload.late)

    def test_an_idle_loop_ends_the_overload(self) -> None:
        """No socket was ready: no work is left."""
        for _ in range(8):
            self.turn(0.05)
        self.turn(0.02, idle=True)
        self.assertFalse(self.overload.late)
        self.assertTrue(self.overload.admits())

    def test_after_an_overload_a_burst_is_shorter(self) -> None:
        """An overload that pauses for a turn is none the less one; a second later it is over."""
        for _ in range(8):
            self.turn(0.05)
        self.assertFalse(self.overload.admits())
        self.turn(0.05, idle=True)
        self.assertFalse(self.overload.admits())
        self.turn(0.0, idle=True)
        self.clock.advance(1.0)
        self.turn(0.05, idle=True)
        self.assertTrue(self.overload.admits())

    def test_lag_is_measured(self) -> None:
        """The longest turn of each tenth of a second; of the last second or two for health."""
        self.turn(0.03)
        self.turn(0.09)
        self.turn(0.0)
        name = "middlewared_loop_lag_seconds"
        self.assertEqual(self.metrics.registry.get_sample_value(f"{name}_count"), 1)
        self.assertAlmostEqual(self.metrics.registry.get_sample_value(f"{name}_sum") or 0, 0.09)
        self.assertAlmostEqual(self.overload.lag_s, 0.09)
        self.clock.advance(3.0)
        self.assertEqual(self.overload.lag_s, 0.0)

    def test_refusals_are_reported_once_a_second(self) -> None:
        """As a counter, as ended calls, and as one line."""
        for _ in range(1000):
            self.overload.refuse()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1.0)
        value = self.metrics.registry.get_sample_value
        self.assertEqual(value("middlewared_calls_shed_total"), 1000)
        labels = {"app": "none", "platform": "none", "outcome": "overloaded"}
        self.assertEqual(value("middlewared_calls_total", labels), 1000)
        self.overload.refuse()
        self.overload.report()
        self.assertEqual(value("middlewared_calls_shed_total"), 1001)
        self.assertEqual(self.clock.getDelayedCalls(), [])
