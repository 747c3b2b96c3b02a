"""
What every rendezvous must do.

``RendezvousContract`` is mixed into a TestCase that has two members of one rendezvous:
the same object twice for the one inside a process, two daemons' for a shared one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from middlewared.model import (
    Answer,
    AnswerResult,
    Call,
    DeviceKind,
    IncomingCall,
    LateAnswer,
    Outcome,
    Platform,
    Settlement,
)
from middlewared.rendezvous.interface import Rendezvous, Waiter
from middlewared.rendezvous.memory import fresh_key

ACCEPTED, LATE, UNKNOWN = AnswerResult


def a_call(
    *,
    sip_user_id: int = 123456789,
    call_id: str = "",
    unique_key: str | None = None,
    wait_s: float = 20.0,
    by_registration: bool = False,
) -> Call:
    """A call that starts now."""
    now = time.time()
    incoming = IncomingCall(sip_user_id, "0123456789", call_id=call_id)
    key = unique_key or fresh_key()
    return Call(key, incoming, now, now + wait_s, now, by_registration)


def shared_facts(call: Call) -> tuple[object, ...]:
    """What all daemons know alike of a call; its other times are of each one's own clock."""
    return call.unique_key, call.incoming, call.start_time


def decision(settlement: Settlement) -> tuple[Outcome, float | None]:
    """What all daemons know alike of a settlement: the outcome and the phone's start time."""
    answer = settlement.answer
    return settlement.outcome, None if answer is None else answer.message_start_time


def an_answer(available: bool = True) -> Answer:
    """An answer that arrives now."""
    return Answer(available, time.time() - 0.3, time.time())


if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object  # a contract alone is no test, so no runner may collect it


class RendezvousContract(_Case):
    """The behaviour of a rendezvous with the members ``here`` and ``there``."""

    here: Rendezvous
    there: Rendezvous
    late: list[LateAnswer]

    async def answered(
        self, member: Rendezvous, call: Call, available: bool = True
    ) -> AnswerResult:
        return await member.answer(call.unique_key, an_answer(available))

    async def test_answer_reaches_the_waiter(self) -> None:
        """An answer given at one member settles the waiter at the other."""
        waiter = await self.here.join(a_call())
        self.assertTrue(waiter.first)
        answer = an_answer()
        self.assertIs(await self.there.answer(waiter.call.unique_key, answer), ACCEPTED)
        self.assertEqual(
            decision(await waiter.settled), (Outcome.ANSWERED, answer.message_start_time)
        )
        waiter.leave()

    async def test_unavailable_is_an_outcome_of_its_own(self) -> None:
        """available=False settles the call as unavailable."""
        waiter = await self.here.join(a_call())
        await self.answered(self.there, waiter.call, available=False)
        self.assertIs((await waiter.settled).outcome, Outcome.UNAVAILABLE)

    async def test_first_answer_decides(self) -> None:
        """A later answer is taken (True) and changes nothing, wherever it arrives."""
        waiter = await self.here.join(a_call())
        self.assertIs(await self.answered(self.there, waiter.call), ACCEPTED)
        self.assertIs(await self.answered(self.here, waiter.call, available=False), ACCEPTED)
        self.assertIs(await self.answered(self.there, waiter.call, available=False), ACCEPTED)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def test_one_refusal_of_two_pushes_decides_nothing(self) -> None:
        """Wherever it arrives; a later acceptance settles the call."""
        waiter = await self.here.join(a_call())
        waiter.pushes = 2
        self.assertIs(await self.answered(self.here, waiter.call, available=False), ACCEPTED)
        self.assertFalse(waiter.settled.called)
        self.assertIs(await self.answered(self.there, waiter.call), ACCEPTED)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def test_refusals_are_counted_over_all_members(self) -> None:
        """As many refusals as pushes settle the call for all its waiters."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.there.join(a_call(call_id="abc"))
        first.pushes = 2
        self.assertIs(await self.answered(self.here, first.call, available=False), ACCEPTED)
        self.assertFalse(first.settled.called)
        self.assertIs(await self.answered(self.there, first.call, available=False), ACCEPTED)
        self.assertIs((await first.settled).outcome, Outcome.UNAVAILABLE)
        self.assertIs((await second.settled).outcome, Outcome.UNAVAILABLE)

    async def test_one_refusal_that_arrives_twice_counts_once(self) -> None:
        """Daemons may pass it on and repeat it."""
        waiter = await self.here.join(a_call())
        waiter.pushes = 2
        refusal = an_answer(available=False)
        for member in (self.here, self.there, self.here):
            self.assertIs(await member.answer(waiter.call.unique_key, refusal), ACCEPTED)
        self.assertFalse(waiter.settled.called)
        waiter.leave()

    async def test_refusals_decide_when_a_push_turns_out_to_be_none(self) -> None:
        """The provider refuses a push after the phone has refused all others."""
        waiter = await self.here.join(a_call())
        waiter.pushes = 2
        await self.answered(self.here, waiter.call, available=False)
        waiter.pushes = 1
        self.assertIs((await waiter.settled).outcome, Outcome.UNAVAILABLE)

    async def test_answer_after_a_timeout_is_reported_as_late(self) -> None:
        """At the daemon where it arrives, with the kind of the device."""
        waiter = await self.here.join(a_call(wait_s=0.2))
        waiter.kind = kind = DeviceKind("com.example.app", Platform.GCM)
        self.assertIs((await waiter.settled).outcome, Outcome.TIMEOUT)
        await self.moment_after(waiter.call.deadline)
        self.assertIs(await self.answered(self.there, waiter.call), LATE)
        (late,) = self.late
        self.assertEqual((late.unique_key, late.kind), (waiter.call.unique_key, kind))
        self.assertEqual(late.sip_user_id, waiter.call.incoming.sip_user_id)
        self.assertTrue(0.0 < late.late_s < 20.0)

    async def test_key_is_recognised_where_its_call_waits(self) -> None:
        """Before and after its answer; an unknown one never is."""
        waiter = await self.here.join(a_call())
        key = waiter.call.unique_key
        self.assertTrue(self.here.knows_key(key))
        self.assertFalse(self.here.knows_key(fresh_key()))
        self.assertIs(await self.answered(self.here, waiter.call), ACCEPTED)
        self.assertTrue(self.here.knows_key(key))
        waiter.leave()

    async def test_unknown_key_is_refused(self) -> None:
        """No one waits for a key that was never given out."""
        self.assertIs(await self.here.answer(fresh_key(), an_answer()), UNKNOWN)

    async def test_deadline_is_a_timeout(self) -> None:
        """A call without an answer times out at its deadline; no device was woken for it."""
        waiter = await self.here.join(a_call(wait_s=0.3))
        self.assertIs((await waiter.settled).outcome, Outcome.TIMEOUT)
        self.assertIs(await self.answered(self.there, waiter.call), UNKNOWN)
        self.assertIs(await self.answered(self.here, waiter.call), UNKNOWN)

    async def test_an_answered_call_is_forgotten_at_its_deadline(self) -> None:
        """A repeat of the answer is then unknown."""
        waiter = await self.here.join(a_call(wait_s=0.4))
        self.assertIs(await self.answered(self.there, waiter.call), ACCEPTED)
        await self.moment_after(waiter.call.deadline)
        self.assertIs(await self.answered(self.there, waiter.call), UNKNOWN)

    async def test_settling_is_a_fast_no(self) -> None:
        """settle() ends the wait, and a later answer finds nothing."""
        waiter = await self.here.join(a_call())
        await self.here.settle(waiter.call.unique_key, Outcome.TOKEN_DEAD)
        self.assertEqual(await waiter.settled, Settlement(Outcome.TOKEN_DEAD))
        await self.until_ended(waiter)
        self.assertIs(await self.answered(self.there, waiter.call), UNKNOWN)

    async def test_settling_after_an_answer_changes_nothing(self) -> None:
        """The answer has decided; a push's late failure does not matter."""
        waiter = await self.here.join(a_call())
        await self.answered(self.there, waiter.call)
        await self.here.settle(waiter.call.unique_key, Outcome.TOKEN_DEAD)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)
        self.assertIs(await self.answered(self.here, waiter.call), ACCEPTED)

    async def test_repeat_joins_the_waiting_call(self) -> None:
        """The same account and call_id at another member waits for the same key."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.there.join(a_call(call_id="abc"))
        self.assertEqual((first.first, second.first), (True, False))
        self.assertEqual(shared_facts(second.call), shared_facts(first.call))
        await self.answered(self.here, first.call)
        self.assertIs((await first.settled).outcome, Outcome.ANSWERED)
        self.assertIs((await second.settled).outcome, Outcome.ANSWERED)

    async def test_joined_call_is_settled_for_all(self) -> None:
        """A fast no reaches every waiter of the call."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.there.join(a_call(call_id="abc"))
        await self.here.settle(first.call.unique_key, Outcome.PUSH_FAILED)
        self.assertIs((await first.settled).outcome, Outcome.PUSH_FAILED)
        self.assertIs((await second.settled).outcome, Outcome.PUSH_FAILED)

    async def test_repeat_of_an_answered_call_is_answered_at_once(self) -> None:
        """Within the window of an answered call its repeat gets the same answer."""
        first = await self.here.join(a_call(call_id="abc"))
        await self.answered(self.here, first.call)
        await first.settled
        first.leave()
        repeat = await self.there.join(a_call(call_id="abc"))
        self.assertFalse(repeat.first)
        self.assertIs((await repeat.settled).outcome, Outcome.ANSWERED)

    async def test_a_member_knows_the_calls_it_holds(self) -> None:
        """A repeat of a call with a waiter here; not another's, not one without a call_id."""
        waiter = await self.here.join(a_call(call_id="abc"))
        self.assertTrue(self.here.holds(a_call(call_id="abc").incoming))
        self.assertFalse(self.here.holds(a_call(call_id="abd").incoming))
        self.assertFalse(self.here.holds(a_call(sip_user_id=987654321, call_id="abc").incoming))
        self.assertFalse(self.here.holds(a_call().incoming))
        waiter.leave()
        await self.until_ended(waiter)
        self.assertFalse(self.here.holds(a_call(call_id="abc").incoming))

    async def test_repeat_of_a_failed_call_is_a_new_call(self) -> None:
        """The outcome of a call that failed does not apply to the next try."""
        first = await self.here.join(a_call(call_id="abc"))
        await self.here.settle(first.call.unique_key, Outcome.TOKEN_DEAD)
        await self.until_ended(first)
        again = await self.there.join(a_call(call_id="abc"))
        self.assertTrue(again.first)
        again.leave()

    async def test_calls_without_call_id_are_never_joined(self) -> None:
        """An empty call_id does not make two calls one."""
        first = await self.here.join(a_call())
        second = await self.there.join(a_call())
        self.assertTrue(second.first)
        self.assertNotEqual(first.call.unique_key, second.call.unique_key)
        first.leave()
        second.leave()

    async def test_call_id_of_another_account_is_another_call(self) -> None:
        """Accounts do not share calls; when a UUID is in use, the second call gets its own key."""
        key = "0123456789abcdef0123456789abcdef"
        first = await self.here.join(a_call(call_id=key, unique_key=key))
        second = await self.there.join(a_call(sip_user_id=987654321, call_id=key, unique_key=key))
        self.assertTrue(second.first)
        self.assertEqual(first.call.unique_key, key)
        self.assertRegex(second.call.unique_key, r"\A[0-9a-f]{32}\Z")
        self.assertNotEqual(second.call.unique_key, key)
        await self.answered(self.there, first.call)
        self.assertIs((await first.settled).outcome, Outcome.ANSWERED)
        self.assertFalse(second.settled.called)
        second.leave()

    async def test_repeat_never_joins_another_accounts_call(self) -> None:
        """Not even when that call has taken over the key of a call that failed before."""
        key = "0123456789abcdef0123456789abcdef"
        failed = await self.here.join(a_call(call_id=key, unique_key=key))
        await self.here.settle(key, Outcome.TOKEN_DEAD)
        await self.until_ended(failed)
        other = await self.there.join(a_call(sip_user_id=987654321, call_id=key, unique_key=key))
        again = await self.here.join(a_call(call_id=key, unique_key=key))
        self.assertEqual((other.call.unique_key, other.first, again.first), (key, True, True))
        self.assertNotEqual(again.call.unique_key, key)
        other.leave()
        again.leave()

    async def test_last_waiter_to_leave_ends_the_call(self) -> None:
        """While one PBX connection is left the call waits; then it is over."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.there.join(a_call(call_id="abc"))
        first.leave()
        first.leave()
        self.assertFalse(first.ended.called)
        second.leave()
        self.assertIsNone(await self.until_ended(first))
        self.assertIs(await self.answered(self.here, first.call), UNKNOWN)
        self.assertIs(await self.answered(self.there, first.call), UNKNOWN)

    async def test_joined_waiter_gets_the_answer_after_the_first_left(self) -> None:
        """The PBX repeats a call, then drops its first connection: the repeat is answered."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.there.join(a_call(call_id="abc"))
        first.leave()
        self.assertIs(await self.answered(self.here, first.call), ACCEPTED)
        self.assertIs((await second.settled).outcome, Outcome.ANSWERED)

    async def test_answer_ends_the_pushes(self) -> None:
        """The first waiter is notified that the call ended, and how."""
        waiter = await self.here.join(a_call())
        await self.answered(self.there, waiter.call)
        settlement = await self.until_ended(waiter)
        self.assertIs(settlement and settlement.outcome, Outcome.ANSWERED)

    async def test_first_waiter_is_notified_of_the_end_after_it_left(self) -> None:
        """The call goes on for the second; its end is reported where the device is woken."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.there.join(a_call(call_id="abc"))
        first.leave()
        await self.answered(self.there, second.call, available=False)
        settlement = await self.until_ended(first)
        self.assertIs(settlement and settlement.outcome, Outcome.UNAVAILABLE)

    async def test_waiters_of_one_member_share_the_platform(self) -> None:
        """The waker sets it; other calls do not have it."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.here.join(a_call(call_id="abc"))
        other = await self.here.join(a_call())
        kind = DeviceKind("com.example.app", Platform.GCM)
        first.kind = kind
        self.assertEqual((second.kind, other.kind), (kind, None))
        for waiter in (first, second, other):
            waiter.leave()

    async def test_settle_all_settles_this_members_waiters(self) -> None:
        """At the end of a drain all who wait here are notified."""
        first = await self.here.join(a_call())
        second = await self.here.join(a_call())
        self.here.settle_all(Outcome.DRAINING)
        self.assertIs((await first.settled).outcome, Outcome.DRAINING)
        self.assertIs((await second.settled).outcome, Outcome.DRAINING)

    async def test_stop_settles_this_members_waiters(self) -> None:
        """A daemon that stops leaves no request without an outcome."""
        waiter = await self.here.join(a_call())
        self.assertIsNot(self.here.up, False)
        await self.here.stop()
        self.assertIs((await waiter.settled).outcome, Outcome.DRAINING)

    async def test_waiting_counts_waiters(self) -> None:
        """waiting is what one member holds: up at join, down at answer or leave."""
        first = await self.here.join(a_call())
        second = await self.here.join(a_call())
        self.assertEqual(self.here.waiting, 2)
        first.leave()
        self.assertEqual(self.here.waiting, 1)
        await self.answered(self.there, second.call)
        await second.settled
        self.assertEqual(self.here.waiting, 0)

    async def test_simultaneous_joins_open_one_call(self) -> None:
        """Of many repeats that arrive together exactly one wakes the device."""
        members = [self.here, self.there] * 10
        calls = [Deferred.fromCoroutine(m.join(a_call(call_id="abc"))) for m in members]
        waiters = await gatherResults(calls)
        self.assertEqual(sum(waiter.first for waiter in waiters), 1)
        self.assertEqual(len({waiter.call.unique_key for waiter in waiters}), 1)
        await self.there.answer(waiters[0].call.unique_key, an_answer())
        for waiter in waiters:
            self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def test_leaving_and_joining_again_is_a_new_call(self) -> None:
        """The PBX gives a call up and places it again with its UUID: the device rings again."""
        key = "0123456789abcdef0123456789abcdef"
        for _ in range(10):
            waiter = await self.here.join(a_call(unique_key=key, call_id=key))
            self.assertTrue(waiter.first)
            waiter.leave()
            again = await self.here.join(a_call(unique_key=key, call_id=key))
            self.assertTrue(again.first)
            self.assertTrue(waiter.ended.called)
            self.assertFalse(again.ended.called)
            again.leave()

    async def test_registration_answers_the_calls_of_its_account(self) -> None:
        """All that had a push, at every member, each once; those without a push wait on."""
        calls = [a_call(call_id=str(number), by_registration=True) for number in range(4)]
        calls.append(a_call(sip_user_id=987654321, by_registration=True))
        waiters = [await self.here.join(call) for call in calls]
        for waiter in waiters[:2] + waiters[4:]:
            waiter.pushes = 1
        joined = await self.there.join(a_call(call_id="0"))
        await self.registered(self.there, 2)
        for each in (waiters[0], waiters[1], joined):
            self.assertIs((await each.settled).outcome, Outcome.ANSWERED)
        for each in waiters[2:]:
            self.assertFalse(each.settled.called)
            each.leave()
        for member in (self.here, self.there):
            self.assertEqual(await member.answer_account(123456789, "", an_answer()), 0)

    async def test_registration_answers_one_call(self) -> None:
        """The one of its call_id."""
        first = await self.here.join(a_call(call_id="a", by_registration=True))
        second = await self.here.join(a_call(call_id="b", by_registration=True))
        first.pushes = second.pushes = 1
        await self.registered(self.there, 1, "b")
        self.assertIs((await second.settled).outcome, Outcome.ANSWERED)
        self.assertFalse(first.settled.called)
        self.assertEqual(await self.there.answer_account(123456789, "c", an_answer()), 0)
        first.leave()

    async def test_registration_after_an_answer_changes_nothing(self) -> None:
        """The phone has decided, with yes or no; a call that is over is not answered either."""
        waiters = [await self.here.join(a_call(by_registration=True)) for _ in range(3)]
        for waiter in waiters:
            waiter.pushes = 1
        await self.answered(self.there, waiters[0].call)
        await self.answered(self.there, waiters[1].call, available=False)
        self.assertIs((await waiters[0].settled).outcome, Outcome.ANSWERED)
        self.assertIs((await waiters[1].settled).outcome, Outcome.UNAVAILABLE)
        waiters[2].leave()
        await self.until_ended(waiters[2])
        for member in (self.here, self.there):
            self.assertEqual(await member.answer_account(123456789, "", an_answer()), 0)

    async def registered(self, member: Rendezvous, count: int, call_id: str = "") -> None:
        """Register at ``member`` until ``count`` calls are answered; it may learn of them late."""
        answered = 0
        while answered < count:
            answered += await member.answer_account(123456789, call_id, an_answer())
        self.assertEqual(answered, count)

    async def test_cancelled_call_ends_everywhere(self) -> None:
        """Every waiter gets CANCELLED, the pushes stop, and an answer finds nothing."""
        first = await self.here.join(a_call(call_id="abc"))
        second = await self.there.join(a_call(call_id="abc"))
        self.assertTrue(await self.there.cancel(first.call.incoming))
        for waiter in (first, second):
            self.assertEqual(await waiter.settled, Settlement(Outcome.CANCELLED))
        self.assertEqual(await self.until_ended(first), Settlement(Outcome.CANCELLED))
        for member in (self.here, self.there):
            self.assertIs(await self.answered(member, first.call), UNKNOWN)
        self.assertEqual((self.here.waiting, self.there.waiting), (0, 0))

    async def test_only_a_waiting_call_is_cancelled(self) -> None:
        """Not another account's or call_id's, not one that is over, none twice."""
        waiter = await self.here.join(a_call(call_id="abc"))
        for other in (a_call(call_id="abd"), a_call(sip_user_id=987654321, call_id="abc")):
            self.assertFalse(await self.there.cancel(other.incoming))
        self.assertFalse(waiter.settled.called)
        self.assertTrue(await self.here.cancel(waiter.call.incoming))
        self.assertFalse(await self.here.cancel(waiter.call.incoming))
        gone = await self.here.join(a_call(call_id="gone"))
        gone.leave()
        await self.until_ended(gone)
        self.assertFalse(await self.there.cancel(gone.call.incoming))

    async def test_answered_call_stays_answered(self) -> None:
        """The caller gave up too late, at whichever member; a repeat still gets the answer."""
        waiter = await self.here.join(a_call(call_id="abc"))
        await self.answered(self.here, waiter.call)
        for member in (self.there, self.here):
            self.assertFalse(await member.cancel(waiter.call.incoming))
        repeat = await self.there.join(a_call(call_id="abc"))
        self.assertIs((await repeat.settled).outcome, Outcome.ANSWERED)

    async def test_cancelled_call_that_is_placed_again_is_a_new_call(self) -> None:
        """At once, with the same key, wherever; the cancellation does not reach it."""
        key = "0123456789abcdef0123456789abcdef"
        for one, other in ((self.here, self.there), (self.there, self.here)) * 5:
            waiter = await one.join(a_call(unique_key=key, call_id=key))
            joined = await other.join(a_call(unique_key=key, call_id=key))
            self.assertTrue(await other.cancel(waiter.call.incoming))
            again = await one.join(a_call(unique_key=key, call_id=key))
            self.assertTrue(again.first)
            for each in (waiter, joined):
                self.assertIs((await each.settled).outcome, Outcome.CANCELLED)
            self.assertFalse(again.settled.called)
            self.assertIs(await self.answered(other, again.call), ACCEPTED)
            self.assertIs((await again.settled).outcome, Outcome.ANSWERED)
            key = fresh_key()

    async def test_request_that_arrived_before_is_cancelled(self) -> None:
        """Even while it is still joining."""
        for _ in range(20):
            call = a_call(call_id="abc")
            joining = Deferred.fromCoroutine(self.here.join(call))
            self.assertTrue(await self.here.cancel(call.incoming))
            waiter = await joining
            self.assertIs((await waiter.settled).outcome, Outcome.CANCELLED)

    async def until_ended(self, waiter: Waiter) -> Settlement | None:
        """What ``waiter.ended`` fires with."""
        ended: Deferred[Settlement | None] = Deferred()
        waiter.ended.addCallback(ended.callback)
        return await ended

    async def moment_after(self, deadline: float) -> None:
        """Wait until a little after ``deadline``; the concrete case knows its clock."""
        raise NotImplementedError
