"""Look-ups of devices that share a statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.database import Row
from middlewared.devices.batched_lookups import OPEN_S, QUICKLY_S, BatchedLookups, Ids
from middlewared.errors import DatabaseDown

A_MOMENT_S = QUICKLY_S / 4


class BatchedLookupsTests(SynchronousTestCase):
    """A database whose only connection is busy until :meth:`answer`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.statements: list[tuple[Callable[[], Ids], Deferred[Sequence[Row]]]] = []
        self.lookups = BatchedLookups(clock=self.clock, select=self.select)

    def select(self, ids: Callable[[], Ids]) -> Deferred[Sequence[Row]]:
        self.statements.append((ids, Deferred()))
        return self.statements[-1][1]

    def find(self, sip_user_id: int, *, quickly: bool = False) -> Deferred[Row | None]:
        return Deferred.fromCoroutine(self.lookups.find(sip_user_id, quickly=quickly))

    def answer(self, *rows: Row) -> list[int]:
        """Run the oldest statement; the accounts it was for."""
        ids, result = self.statements.pop(0)
        asked = sorted(int(each) for each in ids())
        result.callback(rows)
        return asked

    def test_one_statement_for_those_that_wait(self) -> None:
        """Each gets its own row, two of one account the same, and one without a device None."""
        found = [self.find(number) for number in (1, 2, 1, 3)]
        self.assertEqual(self.answer((1, "a"), (2, "b")), [1, 2, 3])
        rows = [self.successResultOf(each) for each in found]
        self.assertEqual(rows, [(1, "a"), (2, "b"), (1, "a"), None])

    def test_a_statement_is_not_joined_for_long(self) -> None:
        """Its deadline is that of its first look-up."""
        self.find(1)
        self.clock.advance(OPEN_S)
        self.find(2)
        self.assertEqual([self.answer(), self.answer()], [[1], [2]])

    def test_failed_statement(self) -> None:
        """All of its look-ups fail, and the next one has another statement."""
        found = [self.find(1), self.find(2, quickly=True)]
        self.statements.pop()[1].errback(DatabaseDown("away"))
        for each in found:
            self.failureResultOf(each, DatabaseDown)
        again = self.find(1)
        self.assertEqual(self.answer((1, "a")), [1])
        self.assertEqual(self.successResultOf(again), (1, "a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_quick_look_up_in_a_database_that_hangs(self) -> None:
        """It fails soon; a patient one in the same statement waits, and gets its row."""
        patient, quick = self.find(1), self.find(1, quickly=True)
        self.clock.pump([A_MOMENT_S] * 3)
        self.assertNoResult(quick)
        self.clock.pump([A_MOMENT_S, A_MOMENT_S, 0.0])
        self.failureResultOf(quick, DatabaseDown)
        self.assertNoResult(patient)
        self.answer((1, "a"))
        self.assertEqual(self.successResultOf(patient), (1, "a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_caller_that_goes_away(self) -> None:
        """The others in its statement get their rows, and nothing is left."""
        gone, other = self.find(1, quickly=True), self.find(2, quickly=True)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.answer((1, "a"), (2, "b"))
        self.assertEqual(self.successResultOf(other), (2, "b"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
