"""
The answers that arrive at this daemon: of phones, and of registrations at the SIP registrar.

An available answer settles the waiters here before Redis is asked.
"""

from __future__ import annotations

import secrets

import attrs
from twisted.internet.defer import Deferred, gatherResults

from middlewared.errors import RendezvousDown
from middlewared.model import Answer, AnswerResult, Settlement, SipUserId
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls
from middlewared.rendezvous.late import LateCalls
from middlewared.rendezvous.redis import records
from middlewared.rendezvous.redis.shared_calls import AnswerStored, AnswerTooLate, SharedCalls
from middlewared.rendezvous.redis.unrecorded_calls import UnrecordedCalls
from middlewared.rendezvous.redis.waker_reports import WakerReports


@attrs.frozen(kw_only=True)
class Answers:
    """Passes answers to the calls that they are for, wherever those wait."""

    held: HeldCalls
    late: LateCalls
    shared: SharedCalls
    unrecorded: UnrecordedCalls
    waker_reports: WakerReports

    async def answer(self, unique_key: str, answer: Answer) -> AnswerResult:
        """See :meth:`middlewared.rendezvous.interface.Rendezvous.answer`."""
        if not records.is_key(unique_key):
            return AnswerResult.UNKNOWN
        held = self.held.find(unique_key)
        try:
            reply = await self._store(held, unique_key, answer)
        except RendezvousDown as down:
            return await self._answer_unrecorded(held, unique_key, answer, down)
        match reply:
            case AnswerStored():
                return AnswerResult.ACCEPTED
            case AnswerTooLate(woken, late_s):
                self.late.report(unique_key, answer, woken, late_s)
                return AnswerResult.LATE
            case None:
                return await self._answer_unrecorded(held, unique_key, answer, None)

    async def answer_account(self, sip_user_id: SipUserId, call_id: str, answer: Answer) -> int:
        """See :meth:`middlewared.rendezvous.interface.Rendezvous.answer_account`."""
        answer = attrs.evolve(answer, id=secrets.token_hex(4))  # to know which calls it decides
        here = [held.call.unique_key for held in self.held.answerable(sip_user_id, call_id)]
        answering = [Deferred.fromCoroutine(self._decide(key, answer)) for key in here]
        down: RendezvousDown | None = None
        listed: set[str] = set()
        try:
            listed.update(await self.shared.listed_for(sip_user_id, call_id))
        except RendezvousDown as error:
            down = error
        answering += [Deferred.fromCoroutine(self._decide(key, answer)) for key in listed - {*here}]
        decided = sum(await gatherResults(answering))
        try:
            decided += await self.unrecorded.answer_account(
                sip_user_id, call_id, Settlement.by(answer), down=down is not None
            )
        except RendezvousDown as error:
            down = error
        if not decided and down is not None:
            raise down
        return decided

    async def _store(
        self, held: HeldCall | None, unique_key: str, answer: Answer
    ) -> AnswerStored | AnswerTooLate | None:
        """Settle the call here, if ``held``, and in Redis; None: Redis does not know it."""
        if held is not None and held.waiters and answer.available and not held.expired:
            self.held.settle(held, Settlement.by(answer))
        pushes = held.pushes if held is not None and held.is_woken_here else None
        reply = await self.shared.answer(unique_key, answer, pushes)
        if isinstance(reply, AnswerStored):
            self._apply(reply, held, unique_key, answer)
        return reply

    def _apply(
        self, reply: AnswerStored, held: HeldCall | None, unique_key: str, answer: Answer
    ) -> None:
        """Apply to the call here what Redis replied to an answer."""
        if held is not None and reply.settlement is not None:
            self.held.settle(held, reply.settlement)
        elif held is not None:
            held.refusals[answer.id] = answer
        if reply.left_to_waker:
            self.waker_reports.left_to_waker(unique_key)

    async def _answer_unrecorded(
        self, held: HeldCall | None, unique_key: str, answer: Answer, down: RendezvousDown | None
    ) -> AnswerResult:
        """Redis is ``down``, or does not know the call: the daemons may."""
        settlement = Settlement.by(answer)
        if await self.unrecorded.answer(held, unique_key, settlement, down=down is not None):
            return AnswerResult.ACCEPTED
        if self.late.answered(unique_key, answer):
            return AnswerResult.LATE
        if down is not None:
            raise down
        if held is None and not self.unrecorded.redis_knows_all():
            raise RendezvousDown("a daemon that may hold the call cannot be asked")
        return AnswerResult.UNKNOWN

    async def _decide(self, unique_key: str, answer: Answer) -> bool:
        """Whether ``answer`` has decided a call, here or where it waits."""
        held = self.held.find(unique_key)
        try:
            reply = await self._store(held, unique_key, answer)
        except RendezvousDown:
            reply = None
        settlement = None if held is None else held.settlement  # what the PBX got here
        if settlement is None and isinstance(reply, AnswerStored):
            settlement = reply.settlement
        decisive = None if settlement is None else settlement.answer
        return decisive is not None and decisive.id == answer.id
