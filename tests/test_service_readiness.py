"""When a daemon has started, and how it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.service.condition import Condition
from middlewared.service.readiness import Readiness


class ReadinessTests(SynchronousTestCase):
    """A database and a Redis that come and go."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.database: bool | None = None
        self.redis: bool | None = False

    def start(self) -> Readiness:
        return Readiness(
            clock=self.clock, database_up=lambda: self.database, redis_up=lambda: self.redis
        )

    def test_without_redis(self) -> None:
        """The database suffices, at once."""
        self.database, self.redis = True, None
        self.assertTrue(self.start().started)

    def test_each_is_reached_at_some_time(self) -> None:
        """They need not be there together, and may go again."""
        readiness = self.start()
        self.redis = True
        self.assertFalse(readiness.started)
        self.redis, self.database = False, True
        self.assertTrue(readiness.started)
        self.database = False
        self.assertTrue(readiness.started)

    def test_database_stays_away(self) -> None:
        """Nothing is possible without it, however long it takes."""
        self.redis = True
        readiness = self.start()
        self.clock.advance(3600)
        self.database = False
        self.assertFalse(readiness.started)

    def test_redis_stays_away(self) -> None:
        """The daemon goes on without it after half a minute."""
        self.database = True
        readiness = self.start()
        self.clock.advance(29.9)
        self.assertFalse(readiness.started)
        self.clock.advance(0.1)
        self.assertTrue(readiness.started)


class ConditionTests(SynchronousTestCase):
    """The state of the database, as the registry of devices has it."""

    def test_a_daemon_that_has_started_is_not_degraded(self) -> None:
        """What was reached at the start counts at once: the first ping may take a second."""
        parts: dict[str, Any] = {
            "devices": SimpleNamespace(up=True),
            "rendezvous": SimpleNamespace(up=None),
            "accounts": SimpleNamespace(up=None),
            "ringing": SimpleNamespace(waiting=0),
            "overload": SimpleNamespace(lag_s=0.0),
        }
        condition = Condition(clock=Clock(), **parts)
        health = condition.health(draining=False)
        self.assertEqual((health.started, health.database_up), (True, True))
        self.assertEqual(condition.dependencies(), {"database": True})
