"""How many connections a client may use at the same time."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from middlewared.outgoing.slots import FEWEST, FIRST, Slots


class AnyUse(RuleBasedStateMachine):
    """Whatever happens, slots are neither lost nor given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(40)
        self.waiting: list[Deferred[None]] = []
        self.holding = 0

    @rule(count=st.integers(1, 30))
    def ask(self, count: int) -> None:
        """Some more ask."""
        self.waiting += [self.slots.acquire() for _ in range(count)]

    @precondition(lambda self: self.holding)
    @rule(answered=st.booleans())
    def give_back(self, answered: bool) -> None:
        """One is done."""
        self.holding -= 1
        self.slots.release(answered=answered)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """One does not want to wait any more."""
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        turn = self.waiting.pop(index)
        turn.addErrback(lambda failure: failure.trap(CancelledError) and None)
        turn.cancel()

    @invariant()
    def slots_are_used(self) -> None:
        """No one waits while a slot is free, and no more are held than ever allowed."""
        self.holding += sum(turn.called for turn in self.waiting)
        self.waiting = [turn for turn in self.waiting if not turn.called]
        assert self.holding <= 40
        assert FEWEST <= self.slots.allowed <= 40
        assert not self.waiting or self.holding >= self.slots.allowed


class SlotsTests(SynchronousTestCase):
    """Slots."""

    def granted(self, turns: list[Deferred[None]]) -> int:
        return sum(turn.called for turn in turns)

    def test_latest_is_served_first(self) -> None:
        """Who asked last has most time left."""
        slots = Slots(1)
        first, second, third = (slots.acquire() for _ in range(3))
        self.successResultOf(first)
        slots.release(answered=True)
        self.successResultOf(third)
        self.assertNoResult(second)

    def test_slots_are_neither_lost_nor_given_twice(self) -> None:
        """Whatever the order of asking, giving back and giving up."""
        run_state_machine_as_test(AnyUse)

    def test_number_grows_while_answers_come(self) -> None:
        """A client that needs more connections gets them, up to the bound."""
        slots = Slots(64)
        turns = [slots.acquire() for _ in range(4000)]
        self.assertEqual(self.granted(turns), FIRST)
        for _ in range(2000):
            slots.release(answered=True)
        self.assertEqual(slots.allowed, 64)

    def test_number_does_not_grow_without_need(self) -> None:
        """A quiet client keeps few connections."""
        slots = Slots(64)
        for _ in range(2000):
            slots.acquire()
            slots.release(answered=True)
        self.assertEqual(slots.allowed, FIRST)

    def test_number_shrinks_when_answers_fail(self) -> None:
        """A peer that stalls holds few connections."""
        slots = Slots(64)
        [slots.acquire() for _ in range(4000)]
        for _ in range(2000):
            slots.release(answered=True)
        for _ in range(64):
            slots.release(answered=False)
        self.assertEqual(slots.allowed, FEWEST)
        for _ in range(FIRST):
            slots.release(answered=True)
        self.assertGreaterEqual(slots.allowed, FIRST)

    def test_a_cancelled_wait_is_not_served(self) -> None:
        """It takes no slot."""
        slots = Slots(1)
        slots.acquire()
        second, third = slots.acquire(), slots.acquire()
        third.cancel()
        self.failureResultOf(third, CancelledError)
        slots.release(answered=True)
        self.successResultOf(second)

    def test_many_that_give_up(self) -> None:
        """However many give their slot back at once, each of them is notified."""
        slots = Slots(1)
        held = slots.acquire()
        notified = []

        async def take_and_leave(turn: Deferred[None]) -> None:
            await turn
            slots.release(answered=True)
            notified.append(turn)

        for _ in range(2000):
            Deferred.fromCoroutine(take_and_leave(slots.acquire()))
        self.assertTrue(held.called)
        slots.release(answered=True)
        self.assertEqual(len(notified), 2000)
