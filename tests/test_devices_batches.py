"""Rows written to the database in batches, such as the response log."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from middlewared.database.batched_writes import BatchedWrites
from middlewared.errors import DatabaseDown
from middlewared.model import Platform, ResponseRecord


def record(number: int) -> ResponseRecord:
    return ResponseRecord(Platform.APNS, 0.5, True, float(number))


class Table:
    """A response_log table that can be down or slow."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.fault: Exception | None = None
        self.slow: Deferred[None] | None = None

    @property
    def rows(self) -> list[float]:
        return [row for batch in self.batches for row in batch]

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        if self.slow is not None:
            await self.slow
        if self.fault is not None:
            raise self.fault
        self.batches.append([record.answered_at for record in records])


class BatchesTests(SynchronousTestCase):
    """Rows, a table and a clock."""

    def setUp(self) -> None:
        self.table = Table()
        self.clock = Clock()
        self.log = BatchedWrites(name="log", write=self.table.log_responses, clock=self.clock)

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.log.add(record(number))

    def stop(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.log.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rows_of_a_second_are_one_batch(self) -> None:
        """A row is not written at once, but with the others a second later."""
        self.add(1, 2, 3)
        self.assertEqual(self.table.batches, [])
        self.clock.advance(1)
        self.assertEqual(self.table.batches, [[1.0, 2.0, 3.0]])
        self.add(4)
        self.clock.advance(1)
        self.assertEqual(self.table.batches[1:], [[4.0]])
        self.stop()

    def test_idle_log_starts_no_timer(self) -> None:
        """Without rows there is nothing to do."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.stop()
        self.assertEqual(self.table.batches, [])

    def test_stop_writes_the_rest(self) -> None:
        """No row is lost by a restart."""
        self.add(1, 2)
        self.stop()
        self.assertEqual(self.table.batches, [[1.0, 2.0]])

    def test_stop_waits_for_the_batch_under_way(self) -> None:
        """Rows that came during a write follow it, in order."""
        self.add(1)
        slow: Deferred[None] = Deferred()
        self.table.slow = slow
        self.clock.advance(1)
        self.add(2)
        stopped = Deferred.fromCoroutine(self.log.stop())
        self.assertNoResult(stopped)
        self.table.slow = None
        slow.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.table.batches, [[1.0], [2.0]])

    def test_large_batches_are_split(self) -> None:
        """One transaction has at most 500 rows."""
        self.add(*range(1200))
        self.clock.advance(1)
        self.assertEqual([len(batch) for batch in self.table.batches], [500, 500, 200])
        self.assertEqual(self.table.rows, [float(n) for n in range(1200)])

    def test_short_outage_loses_nothing(self) -> None:
        """Rows wait until the database takes them, in order."""
        self.table.fault = DatabaseDown("away")
        self.add(1, 2)
        self.clock.pump([1] * 5)
        self.add(3)
        self.table.fault = None
        self.clock.advance(1)
        self.assertEqual(self.table.rows, [1.0, 2.0, 3.0])
        self.stop()

    def test_long_outage_drops_the_oldest_with_one_warning(self) -> None:
        """Memory is bounded; the loss is logged once, and afterwards its size."""
        self.table.fault = DatabaseDown("away")
        with capturedLogs() as during:
            self.add(*range(10_003))
            self.clock.advance(1)
            self.add(10_003)
        self.assertEqual(len(during), 1)
        self.table.fault = None
        with capturedLogs() as after:
            self.clock.advance(1)
        self.assertEqual([event["rows"] for event in after], [4])
        self.assertEqual(formatEvent(after[0]), "log: writes again, 4 rows were lost")
        self.assertEqual(self.table.rows, [float(n) for n in range(4, 10_004)])

    def test_outage_that_lasts_is_reported(self) -> None:
        """With its reason, once a minute: perhaps only these rows cannot be written."""
        self.table.fault = DatabaseDown("the database refused: 42501")
        self.add(1, 2)
        with capturedLogs() as events:
            self.clock.pump([1] * 29)
        self.assertEqual(events, [])
        with capturedLogs() as events:
            self.clock.pump([1] * 90)
        text = "log: 2 rows wait for the database: the database refused: 42501"
        self.assertEqual([formatEvent(event) for event in events], [text, text])
        self.table.fault = None
        self.stop()

    def test_unforeseen_failure_loses_only_its_batch(self) -> None:
        """A batch that cannot be written is not retried again and again."""
        self.table.fault = ValueError("unforeseen")
        self.add(1)
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.table.fault = None
        self.add(2)
        self.clock.advance(1)
        self.assertEqual(self.table.rows, [2.0])
