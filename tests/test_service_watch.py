"""Noticing that a dependency went away, and that it is back."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import DatabaseDown
from middlewared.service.dependency_watch import DependencyWatch


class WatchTests(SynchronousTestCase):
    """One dependency, whose pings the test answers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pings: list[Deferred[None]] = []
        self.watch = DependencyWatch(clock=self.clock, pings={"database": self.ping})
        self.events = self.enterContext(capturedLogs())
        self.watch.start()

    async def ping(self) -> None:
        self.pings.append(Deferred())
        await self.pings[-1]

    def answer(self, failure: Exception | None = None) -> None:
        """End the ping under way, and let the next one begin."""
        if failure is None:
            self.pings[-1].callback(None)
        else:
            self.pings[-1].errback(failure)
        self.clock.advance(1.0)

    def changes(self) -> list[str]:
        """What was logged about the dependency."""
        return [str(formatEvent(event)) for event in self.events if "name" in event]

    def test_goes_and_comes_back(self) -> None:
        """The result of each ping counts, and each change is logged once."""
        for _ in range(2):
            self.answer(DatabaseDown("gone"))
        for _ in range(2):
            self.answer()
        self.assertEqual(self.changes(), ["database is down: gone", "database is back"])

    def test_up_from_the_start(self) -> None:
        """Is not worth a line."""
        self.answer()
        self.assertEqual(self.changes(), [])

    def test_unforeseen_failure_is_down(self) -> None:
        """Whatever it is, the dependency did not prove that it is there; pings go on."""
        self.answer(ZeroDivisionError())
        self.assertEqual(self.changes()[1:], ["database is down: its ping failed"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.answer()
        self.assertEqual(self.changes()[2:], ["database is back"])

    def test_silence_is_down(self) -> None:
        """A dependency that does not answer is down within three seconds; pings go on."""
        self.answer()
        self.clock.pump([0.1] * 20)
        self.assertEqual(self.changes(), ["database is down: no answer in 1.5 s"])
        self.clock.advance(1.0)
        self.answer()
        self.assertEqual(self.changes()[1:], ["database is back"])

    def test_stop_waits_for_the_ping_under_way(self) -> None:
        """And begins no other."""
        stopped = Deferred.fromCoroutine(self.watch.stop())
        self.assertNoResult(stopped)
        self.answer()
        self.successResultOf(stopped)
        self.assertEqual((len(self.pings), self.clock.getDelayedCalls()), (1, []))
