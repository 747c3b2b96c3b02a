"""
What the history keeps of calls and the console shows of those that wait, from what the calls
room knows of them. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from middlewared.calls.interface import OpenCall
from middlewared.calls.sent_pushes import SentPush
from middlewared.calls.trace import Trace
from middlewared.calls.waking import Waking
from middlewared.history.interface import HUNG_UP, CallRecord, KeptAnswer, KeptPush, StepTime
from middlewared.model import Answer, Call, Settlement
from middlewared.push.interface import UNWANTED, Accepted, Temporary, Uncertain
from middlewared.quoting import fingerprint

NO_PLATFORM = "none"


def woken_call(waking: Waking, settlement: Settlement | None, pbx: str) -> CallRecord:
    """A call of ``pbx`` whose device was, or should have been, woken from here."""
    call, device = waking.call, waking.device or waking.registered
    answer = None if settlement is None else settlement.answer
    return CallRecord(
        unique_key=call.unique_key,
        call_id=call.incoming.call_id,
        sip_user_id=str(call.incoming.sip_user_id),
        app="" if device is None else device.app,
        platform=NO_PLATFORM if device is None else device.platform.value,
        start=call.start_time,
        outcome=HUNG_UP if settlement is None else settlement.outcome.value,
        phonenumber=call.incoming.phonenumber,
        caller_id=call.incoming.caller_id,
        steps=_steps(waking.trace),
        pushes=[_push(call, sent) for sent in waking.sent.all if not _was_dropped(sent)],
        answer=None if answer is None else kept_answer(answer, time_of(call, answer.received_at)),
        wait_ms=waking.wait_s * 1000,
        hindrance=waking.hindrance,
        token="" if device is None else fingerprint(device.token),
        inherited=waking.inherited,
        pbx=pbx,
    )


def open_call(waking: Waking) -> OpenCall:
    """A call that waits, for those who watch it."""
    incoming, device = waking.call.incoming, waking.device
    return OpenCall(
        unique_key=waking.call.unique_key,
        call_id=incoming.call_id,
        sip_user_id=str(incoming.sip_user_id),
        app="" if device is None else device.app,
        platform=NO_PLATFORM if device is None else device.platform.value,
        start=waking.call.start_time,
        wait_ms=waking.wait_s * 1000,
        steps=[(step.label, took_ms) for step, took_ms in waking.trace.durations_ms()],
    )


def refused_call(call: Call, trace: Trace, settlement: Settlement) -> CallRecord:
    """A request that was refused before a device was looked for."""
    incoming = call.incoming
    return CallRecord(
        unique_key=call.unique_key,
        call_id=incoming.call_id,
        sip_user_id=str(incoming.sip_user_id),
        app="",
        platform=NO_PLATFORM,
        start=call.start_time,
        outcome=settlement.outcome.value,
        phonenumber=incoming.phonenumber,
        caller_id=incoming.caller_id,
        steps=_steps(trace),
        wait_ms=(call.deadline - call.started_at) * 1000,
        pbx=incoming.pbx,
    )


def kept_answer(answer: Answer, time: float) -> KeptAnswer:
    """``answer`` at ``time``; whether it decided is known by the call's own record."""
    return KeptAnswer(time, answer.available, False, None, answer.id)


def time_of(call: Call, at: float) -> float:
    """A moment of a call in epoch seconds."""
    return call.start_time + (at - call.started_at)


def _steps(trace: Trace) -> Sequence[StepTime]:
    return [StepTime(step.name, milliseconds) for step, milliseconds in trace.durations_ms()]


def _was_dropped(sent: SentPush) -> bool:
    """Whether the push waited for a connection until its call was over, and was not sent."""
    return isinstance(sent.result, Temporary) and sent.result.reason == UNWANTED


def _push(call: Call, sent: SentPush) -> KeptPush:
    result = sent.result
    return KeptPush(
        attempt=sent.attempt,
        time=time_of(call, sent.at),
        verdict=result.label,
        reason=result.reason,
        milliseconds=sent.took_s * 1000,
        uncertain=isinstance(result, Uncertain),
        provider_id=result.provider_id if isinstance(result, Accepted | Uncertain) else "",
    )
