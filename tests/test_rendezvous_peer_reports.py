"""What a daemon that has lost Redis concludes from the others' reports."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.devices.interface import PeerHeartbeat
from middlewared.errors import DatabaseDown
from middlewared.rendezvous.redis.peer_reports import (
    DOUBT_S,
    INTERVAL_S,
    REPORTS_LAST_S,
    PeerReports,
)


def a_peer(redis_up: bool, age_s: float = 0.0) -> PeerHeartbeat:
    return PeerHeartbeat("other", redis_up, "1", 0, age_s)


class PeerReportsTests(SynchronousTestCase):
    """
    :ivar others: what the table has; None: the database is away.
    :ivar reported: what was reported of this daemon's Redis.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.has_redis = True
        self.others: Sequence[PeerHeartbeat] | None = []
        self.stalls = False
        self.stalled: Deferred[None] = Deferred()
        self.reported: list[bool] = []
        self.peers = PeerReports(
            clock=self.clock,
            daemon="this",
            table=self,
            has_redis=lambda: self.has_redis,
            waiting=lambda: 0,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self.peers.stop()))

    async def report(self, daemon: str, *, redis_up: bool, waiting: int) -> Sequence[PeerHeartbeat]:
        self.reported.append(redis_up)
        if self.stalls:
            await self.stalled
        if self.others is None:
            raise DatabaseDown("away")
        return self.others

    def lose_redis(self) -> None:
        self.has_redis = False
        self.peers.redis_troubled()

    def passes(self, seconds: float) -> None:
        """Let time pass, in small turns of the reactor."""
        for _ in range(round(seconds / 0.01)):
            self.clock.advance(0.01)

    def verdict(self) -> bool:
        """Whether a call may be taken, which must be known in time."""
        asking = Deferred.fromCoroutine(self.peers.may_work_alone())
        self.passes(DOUBT_S * 1.1)
        return bool(self.successResultOf(asking))

    def at_once(self) -> bool:
        return bool(self.successResultOf(Deferred.fromCoroutine(self.peers.may_work_alone())))

    def test_it_reports_once_a_second(self) -> None:
        """And at once when Redis is lost."""
        self.peers.start()
        self.passes(INTERVAL_S * 2.5)
        self.assertEqual(self.reported, [True] * 3)
        self.lose_redis()
        self.assertEqual(self.reported, [True] * 3 + [False])

    def test_alone_at_once_without_another_daemon(self) -> None:
        """A single daemon refuses nothing."""
        self.peers.start()
        self.lose_redis()
        self.assertTrue(self.at_once())

    def test_alone_when_all_have_lost_it(self) -> None:
        """Others may notice a little later; the call is held until they do."""
        self.peers.start()
        self.others = [a_peer(True)]
        self.lose_redis()
        asking = Deferred.fromCoroutine(self.peers.may_work_alone())
        self.passes(DOUBT_S / 2)
        self.assertNoResult(asking)
        self.others = [a_peer(False)]
        self.passes(DOUBT_S / 2)
        self.assertTrue(self.successResultOf(asking))
        self.assertTrue(self.at_once())

    def test_refused_while_another_has_it(self) -> None:
        """After the first doubt without any wait."""
        self.peers.start()
        self.others = [a_peer(False), a_peer(True)]
        self.lose_redis()
        self.assertFalse(self.verdict())
        self.assertFalse(self.at_once())
        self.passes(20)
        self.assertFalse(self.at_once())

    def test_alone_when_the_database_is_away_too(self) -> None:
        """Whether it refuses or does not reply."""
        self.peers.start()
        self.others = None
        self.lose_redis()
        self.assertTrue(self.verdict())
        self.assertTrue(self.at_once())

    def test_alone_when_the_database_stalls(self) -> None:
        """A report under way holds up no call for longer than another."""
        self.others = [a_peer(True)]
        self.peers.start()
        self.passes(0.1)
        self.stalls = True
        self.lose_redis()
        self.assertTrue(self.verdict())
        self.stalled.callback(None)

    def test_a_daemon_without_redis_may_know_an_unknown_key(self) -> None:
        """As long as it reports so."""
        self.others = [a_peer(True), a_peer(False)]
        self.peers.start()
        self.assertFalse(self.peers.all_have_redis(None))
        self.others = [a_peer(True)]
        self.passes(INTERVAL_S)
        self.assertTrue(self.peers.all_have_redis(None))

    def test_after_a_return_of_redis_each_must_have_reported(self) -> None:
        """A report from before does not count."""
        self.others = [a_peer(True, age_s=0.5)]
        self.peers.start()
        since = self.clock.seconds()
        self.passes(INTERVAL_S * 0.9)
        self.assertFalse(self.peers.all_have_redis(since))
        self.passes(INTERVAL_S * 0.2)
        self.assertTrue(self.peers.all_have_redis(since))

    def test_without_the_database_only_time_helps(self) -> None:
        """Just after Redis has come back nothing is certain; later it is trusted."""
        self.others = None
        self.peers.start()
        self.passes(REPORTS_LAST_S * 2)
        self.assertFalse(self.peers.all_have_redis(self.clock.seconds()))
        self.assertTrue(self.peers.all_have_redis(None))
