"""When a daemon has started."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.service.readiness import Readiness


class ReadinessTests(SynchronousTestCase):
    """A database and a Redis that come and go."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.database: bool | None = None
        self.redis: bool | None = False

    def start(self) -> Readiness:
        """One that has begun to ask."""
        readiness = Readiness(
            clock=self.clock, database_up=lambda: self.database, redis_up=lambda: self.redis
        )
        readiness.start()
        return readiness

    def test_without_redis(self) -> None:
        """The database suffices, at once."""
        self.database, self.redis = True, None
        self.assertTrue(self.start().started)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_is_reached_at_some_time(self) -> None:
        """They need not be there together, and may go again."""
        readiness = self.start()
        self.redis = True
        self.clock.advance(1)
        self.redis, self.database = False, False
        self.clock.pump([0.1] * 700)
        self.assertFalse(readiness.started)
        self.database = True
        self.clock.advance(0.2)
        self.database = False
        self.clock.advance(0.2)
        self.assertTrue(readiness.started)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_redis_stays_away(self) -> None:
        """The daemon goes on without it after half a minute."""
        self.database = True
        readiness = self.start()
        self.clock.pump([0.1] * 299)
        self.assertFalse(readiness.started)
        self.clock.pump([0.1] * 2)
        self.assertTrue(readiness.started)

    def test_the_end_meanwhile(self) -> None:
        """Nothing is left."""
        self.start().stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
