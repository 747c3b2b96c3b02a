"""One connection kept ready, and how fast a host answers."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from middlewared.outgoing.http1_pool import AnswerLatency
from middlewared.outgoing.warm_connection import OPENING_TIMEOUT_S, RETRY_S, WarmConnection

RENEW_S = 50.0


class WarmConnectionTests(SynchronousTestCase):
    """WarmConnection on a clock, a host and connections that the test moves."""

    def setUp(self) -> None:
        """Nothing is open."""
        self.clock = Clock()
        self.opening: list[Deferred[None]] = []
        self.heard_at: float | None = None
        self.warm = WarmConnection(
            clock=self.clock,
            host="fcm.example:443",
            open_one=self.open_one,
            heard_at=lambda: self.heard_at,
            explain=str,
            renew_s=RENEW_S,
        )

    async def open_one(self) -> None:
        self.opening.append(Deferred())
        await self.opening[-1]

    def opened(self) -> None:
        self.heard_at = self.clock.seconds()
        self.opening[-1].callback(None)

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([1.0] * int(seconds))

    def test_connection_is_opened_at_the_start(self) -> None:
        """And no second one while it is usable."""
        self.warm.start()
        self.opened()
        self.pass_time(RENEW_S - 2)
        self.assertEqual(len(self.opening), 1)

    def test_rested_connection_is_replaced_before_it_is_needed(self) -> None:
        """Repeatedly, as long as it is not used."""
        self.warm.start()
        for count in range(1, 5):
            self.opened()
            self.pass_time(RENEW_S + 1)
            self.assertEqual(len(self.opening), count + 1)

    def test_connection_in_use_is_proof_enough(self) -> None:
        """With a push every second, no other connection is opened."""
        self.warm.start()
        self.opened()
        for _ in range(300):
            self.heard_at = self.clock.seconds()
            self.clock.advance(1)
        self.assertEqual(len(self.opening), 1)

    def test_closed_connection_is_opened_again_soon(self) -> None:
        """Within a second, since it had lasted."""
        self.warm.start()
        self.opened()
        self.pass_time(40)
        self.heard_at = None
        self.clock.advance(1)
        self.assertEqual(len(self.opening), 2)

    def test_other_connections_stand_in_for_a_lost_one(self) -> None:
        """Nothing is opened while the host is heard on one that is left."""
        self.warm.start()
        self.opened()
        self.heard_at = self.clock.seconds() - RENEW_S / 2
        self.pass_time(RENEW_S / 2 - 1)
        self.assertEqual(len(self.opening), 1)

    def test_refusing_host_is_not_asked_busily(self) -> None:
        """It is asked every ten seconds; the failure is logged once."""
        with capturedLogs() as events:
            self.warm.start()
            for _ in range(600):
                if not self.opening[-1].called:
                    self.opening[-1].errback(ConnectionRefusedError())
                self.clock.advance(1)
        self.assertTrue(50 <= len(self.opening) <= 61, len(self.opening))
        self.assertEqual(len(events), 1)
        self.assertIn("fcm.example", str(events))

    def test_host_that_closes_at_once_is_not_asked_busily(self) -> None:
        """Accepting a connection does not count as success."""
        self.warm.start()
        for _ in range(600):
            if not self.opening[-1].called:
                self.opened()
                self.heard_at = None
            self.clock.advance(1)
        self.assertTrue(50 <= len(self.opening) <= 61, len(self.opening))

    def test_silent_host_is_given_up(self) -> None:
        """And asked again after a pause."""
        self.warm.start()
        self.pass_time(2 * OPENING_TIMEOUT_S + RETRY_S + 2)
        self.assertTrue(self.opening[0].called)
        self.assertGreater(len(self.opening), 1)

    def test_recovery_is_reported(self) -> None:
        """One line when it fails, one when it works again."""
        with capturedLogs() as events:
            self.warm.start()
            self.opening[-1].errback(ConnectionRefusedError())
            self.pass_time(RETRY_S + 1)
            self.opened()
        self.assertEqual([event["log_level"].name for event in events], ["warn", "info"])

    def test_nothing_is_left_after_the_stop(self) -> None:
        """While opening, idle, or in a pause."""
        self.warm.start()
        self.warm.stop()
        self.assertTrue(self.opening[-1].called)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for opened in (True, False):
            self.setUp()
            self.warm.start()
            self.opened() if opened else self.opening[-1].errback(ConnectionRefusedError())
            self.assertNotEqual(self.clock.getDelayedCalls(), [])
            self.warm.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])


class AnswerLatencyTests(SynchronousTestCase):
    """AnswerLatency."""

    def test_fast_host_has_the_shortest_patience(self) -> None:
        """Also a host without answers yet."""
        latency = AnswerLatency()
        self.assertEqual(latency.patience_s(), 0.7)
        for _ in range(10):
            latency.answered(0.4)
        self.assertEqual(latency.patience_s(), 0.7)

    def test_slow_answer_counts_at_once_and_is_forgotten(self) -> None:
        """A host that has become slow is not doubted twice."""
        latency = AnswerLatency()
        latency.answered(0.05)
        latency.answered(0.9)
        self.assertGreater(latency.patience_s(), 1.2)
        for _ in range(8):
            latency.answered(0.05)
        self.assertEqual(latency.patience_s(), 0.7)
