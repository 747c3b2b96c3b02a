"""Recording: batches, bounds, and what is lost; the purge and its pauses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import DatabaseDown
from middlewared.history.history_purge import MOST_ROWS, ROUND_S, HistoryPurge
from middlewared.history.history_writer import BATCH, CAPACITY, MOST_FACTS, HistoryWriter
from middlewared.history.interface import (
    PURGED,
    DeviceEvent,
    HistoryRow,
    HistoryStore,
    KeptReport,
    Retention,
)
from tests.contracts.history import a_call

ON = Retention()
CALL = a_call()


class Table:
    """A store that can be down or slow."""

    def __init__(self) -> None:
        self.calls: list[Sequence[HistoryRow]] = []
        self.facts: list[HistoryRow] = []
        self.events: list[HistoryRow] = []
        self.figures: list[HistoryRow] = []
        self.fault: Exception | None = None
        self.pause: Deferred[None] = succeed(None)

    async def add_calls(self, rows: Sequence[HistoryRow]) -> None:
        if not self.pause.called:
            await self.pause
        if self.fault is not None:
            raise self.fault
        self.calls.append(rows)

    async def add_facts(self, rows: Sequence[HistoryRow]) -> None:
        self.facts += rows

    async def add_device_events(self, rows: Sequence[HistoryRow]) -> None:
        self.events += rows

    async def add_call_figures(self, rows: Sequence[HistoryRow]) -> None:
        self.figures += rows


class WriterTests(SynchronousTestCase):
    """A writer, a table and a clock."""

    def setUp(self) -> None:
        self.table = Table()
        self.clock = Clock()
        self.lost: list[int] = []
        self.writer = HistoryWriter(
            store=cast(HistoryStore, self.table),
            clock=self.clock,
            wall=lambda: 5.0,
            daemon="d",
            settings=ON,
            lost=self.lost.append,
        )

    def keep(self, number: int) -> None:
        for _ in range(number):
            self.writer.keep_calls([CALL])

    def test_calls_are_written_in_short_batches(self) -> None:
        """A second later, one batch after the other."""
        self.keep(2 * BATCH + 1)
        self.assertEqual(self.table.calls, [])
        self.clock.advance(1)
        self.assertEqual([len(rows) for rows in self.table.calls], [BATCH, BATCH, 1])

    def test_calls_are_counted_by_minute(self) -> None:
        """
        One row for a minute, an app and a platform. The minute that is not over is known, and so
        is the one that may still wait to be written.
        """
        self.keep(3)
        self.writer.keep_calls([a_call(4, outcome="timeout", answer=None)])
        self.writer.keep_calls([a_call(5, app="other", pushes=[], answer=None)])
        current = self.writer.counter.latest()
        self.assertEqual([each.app for each in current], ["com.example.phone", "other"])
        self.assertEqual(current[0].outcomes, {"answered": 3, "timeout": 1})
        self.assertEqual(current[0].wakeups, {"1.0": 3})
        self.assertEqual((current[0].at, current[1].wakeups), (0.0, {}))
        self.clock.advance(55)
        self.assertEqual(self.writer.counter.latest(), current)
        self.keep(1)
        counted = [each.outcomes for each in self.writer.counter.latest()]
        self.assertEqual(counted, [current[0].outcomes, current[1].outcomes, {"answered": 1}])
        self.assertEqual(self.table.figures, [])
        self.clock.advance(1)
        self.assertEqual(len(self.table.figures), 2)
        self.assertEqual(
            self.table.figures[0],
            (0.0, "d", "com.example.phone", "apns", '{"answered":3,"timeout":1}', '{"1.0":3}'),
        )

    def test_history_that_is_off_costs_nothing(self) -> None:
        """Nothing is encoded, queued or timed; a reload switches it on and off."""
        self.writer.reconfigure(attrs.evolve(ON, days=0))
        self.assertFalse(self.writer.recording)
        self.keep(1)
        self.writer.keep_joined("key", "1", 1.0)
        self.writer.keep_device_event(DeviceEvent(time=1.0, sip_user_id="1", event="removed"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.writer.reconfigure(ON)
        self.keep(1)
        self.clock.advance(1)
        self.assertEqual(len(self.table.calls), 1)

    def test_database_is_away_for_a_minute(self) -> None:
        """Rows wait, the oldest beyond the bound are counted, and it recovers; a line a minute."""
        self.table.fault = DatabaseDown("away")
        with capturedLogs() as events:
            for _ in range(60):
                self.keep(400)
                self.clock.advance(1)
        self.assertEqual(sum(self.lost), 60 * 400 - CAPACITY)
        self.assertEqual(len(events), 1)
        self.table.fault = None
        with capturedLogs() as events:
            self.clock.advance(1)
        self.assertEqual(sum(map(len, self.table.calls)), CAPACITY)
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["history of calls: writes again, 4000 rows were lost"],
        )

    def test_database_that_comes_and_goes_fills_no_log(self) -> None:
        """However much is lost meanwhile, the same line comes once a minute."""
        with capturedLogs() as events:
            for _ in range(3):
                self.table.fault = DatabaseDown("away")
                self.keep(CAPACITY + 1)
                self.clock.advance(1)
                self.table.fault = None
                self.clock.advance(1)
        self.assertEqual(sum(self.lost), 3)
        self.assertEqual(len(events), 2)

    def test_slow_database_keeps_no_one_waiting(self) -> None:
        """Recording goes on while a batch is being written."""
        self.table.pause = Deferred()
        self.keep(1)
        self.clock.advance(1)
        self.keep(BATCH)
        self.assertEqual(self.table.calls, [])
        pause, self.table.pause = self.table.pause, succeed(None)
        pause.callback(None)
        self.assertEqual([len(rows) for rows in self.table.calls], [1, BATCH])

    def test_stop_writes_the_rest(self) -> None:
        """What cannot be written any more is counted as lost."""
        self.keep(1)
        self.writer.keep_joined("key", "1", 1.0)
        self.successResultOf(Deferred.fromCoroutine(self.writer.stop()))
        self.assertEqual((len(self.table.calls), len(self.table.facts)), (1, 1))
        self.table.fault = DatabaseDown("away")
        self.keep(3)
        self.successResultOf(Deferred.fromCoroutine(self.writer.stop()))
        self.assertEqual(self.lost, [3])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_events_are_timed(self) -> None:
        """By the wall clock, when they are recorded."""
        self.writer.keep_device_event(DeviceEvent(sip_user_id="1", event="removed"))
        self.clock.advance(1)
        self.assertEqual(self.table.events[0][:3], ("1", 5.0, "removed"))

    def test_facts_of_a_call_are_bounded(self) -> None:
        """A phone that repeats its answer for ever leaves room for other calls."""
        for _ in range(1000):
            self.writer.keep_joined("key", "1", 1.0)
        self.writer.keep_joined("other", "1", 1.0)
        self.writer.keep_joined("key", "2", 1.0)
        self.clock.advance(1)
        self.assertEqual(len(self.table.facts), MOST_FACTS + 2)

    def test_reports_are_bounded(self) -> None:
        """A report without the key of a call, or with an endless one, is not kept."""
        many = {f"name{n}" + "x" * 999: "y" * 9999 for n in range(99)}
        for key in ("", "k" * 256, "key"):
            self.writer.keep_report(key, "1", KeptReport(1.0, "log-metrics", many))
        self.clock.advance(1)
        (row,) = self.table.facts
        self.assertLess(len(row[-1]), 20_000)


class Purged:
    """A store with rows to purge; each row of a step takes ``row_s``."""

    def __init__(self, clock: Clock, **rows: int) -> None:
        self.clock = clock
        self.rows = {**dict.fromkeys(PURGED, 0), **rows}
        self.row_s = 0.0
        self.steps: list[int] = []
        self.fault: Exception | None = None

    async def purge_step(self, table: str, most: int) -> int:
        if self.fault is not None:
            raise self.fault
        deleted = min(most, self.rows[table])
        self.rows[table] -= deleted
        self.steps.append(deleted)
        self.clock.rightNow += deleted * self.row_s
        return deleted


class PurgeTests(SynchronousTestCase):
    """A purge, a store and a clock."""

    def purge(self, **rows: int) -> HistoryPurge:
        self.clock = Clock()
        self.store = Purged(self.clock, **rows)
        purge = HistoryPurge(store=cast(Any, self.store), clock=self.clock)
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(purge.stop())))
        return purge

    def test_all_tables(self) -> None:
        """A round ends when nothing is left, and the next one is less than 30 s later."""
        self.purge(calls=300, call_facts=5, response_log=5).start()
        self.clock.pump([0.01] * 100)
        self.assertEqual(sum(self.store.rows.values()), 0)
        self.assertLess(ROUND_S, 30)
        self.store.rows["device_events"] = 7
        self.clock.advance(ROUND_S)
        self.assertEqual(sum(self.store.rows.values()), 0)

    def test_long_steps_become_shorter(self) -> None:
        """A step takes some milliseconds, however slow the database is."""
        purge = self.purge(calls=10_000)
        self.store.row_s = 0.0001
        purge.start()
        self.clock.pump([0.02] * 1000)
        self.assertEqual(self.store.rows["calls"], 0)
        self.assertLess(max(self.store.steps[20:]), 105)

    def test_quick_steps_become_larger(self) -> None:
        """A large purge ends some time."""
        self.purge(calls=50_000).start()
        self.clock.pump([0.01] * 150)
        self.assertEqual(self.store.rows["calls"], 0)
        self.assertEqual(max(self.store.steps), MOST_ROWS)

    def test_pauses_are_longer_than_steps(self) -> None:
        """Registrations that wait for the same writer get most of its time."""
        purge = self.purge(calls=10_000)
        self.store.row_s = 0.001
        purge.start()
        pause: Any
        (pause,) = self.clock.getDelayedCalls()
        due = pause.getTime()
        self.assertGreaterEqual(due - self.clock.seconds(), 4 * 0.099)

    def test_database_is_away(self) -> None:
        """The next round tries again."""
        purge = self.purge(calls=5)
        self.store.fault = DatabaseDown("away")
        purge.start()
        self.store.fault = None
        self.clock.advance(ROUND_S)
        self.assertEqual(self.store.rows["calls"], 0)

    def test_stop_during_a_round(self) -> None:
        """Nothing is scheduled any more."""
        purge = self.purge(calls=50_000)
        purge.start()
        self.successResultOf(Deferred.fromCoroutine(purge.stop()))
        self.clock.advance(ROUND_S)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.store.steps), 1)
