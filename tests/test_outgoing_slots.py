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

from middlewared.outgoing.slots import Slots


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
    @rule()
    def give_back(self) -> None:
        """One is done."""
        self.holding -= 1
        self.slots.release()

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
        """No one waits while a slot is free, and no more are held than there are."""
        self.holding += sum(turn.called for turn in self.waiting)
        self.waiting = [turn for turn in self.waiting if not turn.called]
        assert self.holding <= 40
        assert not self.waiting or self.holding == 40


class SlotsTests(SynchronousTestCase):
    """Slots."""

    def test_latest_is_served_first(self) -> None:
        """Who asked last has most time left."""
        slots = Slots(1)
        first, second, third = (slots.acquire() for _ in range(3))
        self.successResultOf(first)
        slots.release()
        self.successResultOf(third)
        self.assertNoResult(second)

    def test_slots_are_neither_lost_nor_given_twice(self) -> None:
        """Whatever the order of asking, giving back and giving up."""
        run_state_machine_as_test(AnyUse)

    def test_a_cancelled_wait_is_not_served(self) -> None:
        """It takes no slot."""
        slots = Slots(1)
        slots.acquire()
        second, third = slots.acquire(), slots.acquire()
        third.cancel()
        self.failureResultOf(third, CancelledError)
        slots.release()
        self.successResultOf(second)

    def test_many_that_give_up(self) -> None:
        """However many give their slot back at once, each of them is notified."""
        slots = Slots(1)
        held = slots.acquire()
        notified = []

        async def take_and_leave(turn: Deferred[None]) -> None:
            await turn
            slots.release()
            notified.append(turn)

        for _ in range(2000):
            Deferred.fromCoroutine(take_and_leave(slots.acquire()))
        self.assertTrue(held.called)
        slots.release()
        self.assertEqual(len(notified), 2000)
