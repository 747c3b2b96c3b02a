"""The rendezvous inside one process: its table of held calls is all there is."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import attrs

from middlewared.clock import Clock
from middlewared.model import (
    Answer,
    AnswerResult,
    Call,
    IncomingCall,
    LateAnswer,
    Outcome,
    Settlement,
    SipUserId,
)
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls, LocalWaiter
from middlewared.rendezvous.late import LateCalls, ignored

_WAITER_ID = "waiter"  # only Redis distinguishes waiters by their ids


def fresh_key() -> str:
    """32 random hex digits: a unique_key that no one can guess."""
    return secrets.token_hex(16)


class MemoryRendezvous:
    """
    Calls of one daemon, answered by the same daemon.

    :param clock: the time, and the timers that end calls at their deadline.
    :param late: notified of answers that come after their call has timed out.
    """

    def __init__(self, *, clock: Clock, late: Callable[[LateAnswer], None] = ignored) -> None:
        self._clock = clock
        self._late = LateCalls(clock=clock, late=late)
        self._held = HeldCalls(
            clock=clock,
            timed_out=lambda held, woken: self._late.add(held.call.unique_key, woken),
            left=self._left,
            pushes_changed=self._pushes_changed,
        )

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """See :meth:`.interface.Rendezvous.stop`; no timer is left."""
        self.settle_all(Outcome.DRAINING)
        for held in self._held.all():
            self._held.end(held)

    @property
    def up(self) -> None:
        """None: it depends on nothing outside this process."""

    @property
    def waiting(self) -> int:
        """How many waiters wait."""
        return self._held.waiting

    def holds(self, incoming: IncomingCall) -> bool:
        """See :meth:`.interface.Rendezvous.holds`."""
        return self._held.find_repeated(incoming) is not None

    async def join(self, call: Call) -> LocalWaiter:
        """See :meth:`.interface.Rendezvous.join`; never down."""
        held = self._held.find_repeated(call.incoming)
        if held is not None:
            return self._held.add_waiter(held, _WAITER_ID)
        if self.holds_key(call.unique_key):
            call = attrs.evolve(call, unique_key=fresh_key())
        held = self._held.add(call, left_s=call.deadline - self._clock.seconds())
        return self._held.add_waiter(held, _WAITER_ID, first=True)

    def holds_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.holds_key`."""
        return self._held.find(unique_key) is not None

    def knows_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.knows_key`; here False is certain as well."""
        return self.holds_key(unique_key) or self._late.has(unique_key)

    def rules_out_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.rules_out_key`."""
        return not self.knows_key(unique_key)

    async def answer(self, unique_key: str, answer: Answer) -> AnswerResult:
        """See :meth:`.interface.Rendezvous.answer`; waiters are notified before it returns."""
        held = self._held.find(unique_key)
        if held is None:
            late = self._late.answered(unique_key, answer)
            return AnswerResult.LATE if late else AnswerResult.UNKNOWN
        if held.settlement is None:
            if answer.available:
                self._held.settle(held, Settlement.by(answer))
            else:
                self._held.refuse(held, answer)
        return AnswerResult.ACCEPTED

    async def answer_account(self, sip_user_id: SipUserId, call_id: str, answer: Answer) -> int:
        """See :meth:`.interface.Rendezvous.answer_account`; never down."""
        answerable = self._held.answerable(sip_user_id, call_id)
        for held in answerable:
            self._held.settle(held, Settlement.by(answer))
        return len(answerable)

    async def settle(self, unique_key: str, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.settle`."""
        held = self._held.find(unique_key)
        if held is not None and held.settlement is None:
            self._held.settle(held, Settlement(outcome))

    async def cancel(self, incoming: IncomingCall) -> bool:
        """See :meth:`.interface.Rendezvous.cancel`; never down."""
        return self._held.cancel(incoming)

    def settle_all(self, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.settle_all`."""
        for held in self._held.all():
            if held.settlement is None:
                self._held.settle(held, Settlement(outcome))

    def _left(self, waiter: LocalWaiter) -> None:
        self._held.end_unless_waiting(waiter.held)

    def _pushes_changed(self, held: HeldCall) -> None:
        self._held.settle_if_refused(held)
