"""
The calls as the history keeps them and waiting calls as the console shows them, made from
the state of the calls room. Pure.
"""

from __future__ import annotations

from middlewared.calls.interface import OpenCall
from middlewared.calls.sent_pushes import SentPush
from middlewared.calls.trace import Trace
from middlewared.calls.waking import Waking
from middlewared.history.interface import HUNG_UP, CallRecord, KeptAnswer, KeptPush
from middlewared.model import Answer, Call, Settlement
from middlewared.push.interface import UNWANTED, Temporary, Uncertain
from middlewared.quoting import fingerprint

NO_PLATFORM = "none"


def woken_call(waking: Waking, settlement: Settlement | None, pbx: str) -> CallRecord:
    """A call of ``pbx`` whose device was, or should have been, woken from here."""
    call, device = waking.call, waking.device or waking.registered
    incoming, answer = call.incoming, None if settlement is None else settlement.answer
    # By position: names would take three times as long, for each call.
    return CallRecord(
        call.unique_key,
        incoming.call_id,
        str(incoming.sip_user_id),
        "" if device is None else device.app,
        NO_PLATFORM if device is None else device.platform.value,
        call.start_time,
        HUNG_UP if settlement is None else settlement.outcome.value,
        incoming.phonenumber,
        incoming.caller_id,
        waking.trace.text(),
        [_push(call, sent) for sent in waking.sent.all if not _was_dropped(sent)],
        None if answer is None else kept_answer(answer, time_of(call, answer.received_at)),
        waking.wait_s * 1000,
        waking.hindrance,
        "" if device is None else fingerprint(device.token),
        waking.inherited,
        pbx,
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
        steps=trace.text(),
        wait_ms=(call.deadline - call.started_at) * 1000,
        pbx=incoming.pbx,
    )


def kept_answer(answer: Answer, time: float) -> KeptAnswer:
    """``answer`` at ``time``; whether it decided is known by the call's own record."""
    return KeptAnswer(time, answer.available, False, None, answer.id)


def time_of(call: Call, at: float) -> float:
    """A moment of a call in epoch seconds."""
    return call.start_time + (at - call.started_at)


def _was_dropped(sent: SentPush) -> bool:
    """Whether the push waited for a connection until its call was over, and was not sent."""
    return isinstance(sent.result, Temporary) and sent.result.reason == UNWANTED


def _push(call: Call, sent: SentPush) -> KeptPush:
    attempt, at, took_s, result = sent
    return KeptPush(
        attempt,
        time_of(call, at),
        result.label,
        result.reason,
        took_s * 1000,
        isinstance(result, Uncertain),
        result.provider_id,
    )
