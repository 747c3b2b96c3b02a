"""Counting devices in the background."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.devices.device_counter import DeviceCounter
from middlewared.devices.interface import DeviceCounts
from middlewared.errors import DatabaseDown
from middlewared.model import Platform

KEY = ("com.example", Platform.APNS)


class CountedRegistry:
    """A registry that can be down or slow."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.fault: Exception | None = None
        self.slow: Deferred[None] | None = None

    async def count(self, silent_calls: int) -> DeviceCounts:
        self.asked.append(silent_calls)
        if self.slow is not None:
            await self.slow
        if self.fault is not None:
            raise self.fault
        return DeviceCounts({KEY: len(self.asked)}, len(self.asked))


class DeviceCountsTests(SynchronousTestCase):
    """A registry and a clock."""

    def setUp(self) -> None:
        self.registry = CountedRegistry()
        self.clock = Clock()
        self.silent_calls = 5
        self.counts = DeviceCounter(
            count=self.registry.count, clock=self.clock, silent_calls=lambda: self.silent_calls
        )

    def stop(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.counts.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_counted_at_the_start_and_then_every_20_s(self) -> None:
        """In between, the last result is returned; the setting may change meanwhile."""
        self.assertEqual((dict(self.counts.devices), self.counts.silent), ({}, None))
        self.counts.start()
        self.clock.advance(19)
        self.assertEqual((dict(self.counts.devices), self.counts.silent), ({KEY: 1}, 1))
        self.silent_calls = 0
        self.clock.advance(1)
        self.assertEqual(dict(self.counts.devices), {KEY: 2})
        self.assertEqual(self.registry.asked, [5, 0])
        self.stop()

    def test_slow_count_is_followed_by_a_long_rest(self) -> None:
        """Counting takes at most a hundredth of the database's time."""
        slow = self.registry.slow = Deferred()
        self.counts.start()
        self.clock.advance(2)
        slow.callback(None)
        self.registry.slow = None
        self.clock.advance(199)
        self.assertEqual(len(self.registry.asked), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.registry.asked), 2)
        self.stop()

    def test_database_that_is_away(self) -> None:
        """There are no counts then, rather than stale ones, until it is back."""
        self.counts.start()
        self.registry.fault = DatabaseDown("away")
        self.clock.advance(20)
        self.assertEqual((dict(self.counts.devices), self.counts.silent), ({}, None))
        self.registry.fault = None
        self.clock.advance(20)
        self.assertEqual(self.counts.silent, 3)
        self.stop()

    def test_unforeseen_failure(self) -> None:
        """It is logged, and counting goes on."""
        self.registry.fault = ValueError("unforeseen")
        self.counts.start()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.registry.fault = None
        self.clock.advance(20)
        self.assertEqual(self.counts.silent, 2)
        self.stop()

    def test_stop_waits_for_the_count_under_way(self) -> None:
        """No timer is left."""
        slow = self.registry.slow = Deferred()
        self.counts.start()
        stopped = Deferred.fromCoroutine(self.counts.stop())
        self.assertNoResult(stopped)
        slow.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
