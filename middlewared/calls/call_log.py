"""
What is recorded of calls that have ended: a log line, metrics, a row of response_log, history.

Nothing is done before the reply to the PBX has left: ended calls are queued and recorded
a moment later, many at once under load.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import attrs
from twisted.logger import Logger

from middlewared.calls.call_facts import kept_answer, refused_call, woken_call
from middlewared.calls.device_updates import wakeup
from middlewared.calls.ringing import AcceptedAnswer, Ended, EndedCall, EndedRequest, is_uuid
from middlewared.calls.waking import Waking
from middlewared.clock import Clock, DelayedCall, WallClock
from middlewared.history.interface import CallRecord, KeptAnswer, Recorder
from middlewared.logs.interface import LazyField
from middlewared.metrics import Metrics
from middlewared.model import Answer, LateAnswer, Outcome, ResponseRecord, Settlement, Wakeup
from middlewared.quoting import fingerprint, word

DELAY_S = 0.02
MOST_DECIDING = 5000
MOST_DIFFERENCE_S = 1.0
"""How far the start time that a phone echoes may lie before the call's own."""


@attrs.define(kw_only=True, eq=False, repr=False)
class CallLog:
    """
    Logs and counts ended requests and calls.

    :param log_response: takes a phone's first answer, for the response log.
    :param log_wakeup: takes the effect of a call on the silent streak of its device.
    :param log_late: takes a late answer and when it was received, in epoch seconds.
    :param recorder: keeps the history.
    :param daemon: the name of this daemon.
    """

    log = Logger()

    _clock: Clock
    _wall: WallClock
    _metrics: Metrics
    _log_response: Callable[[ResponseRecord], None]
    _log_wakeup: Callable[[Wakeup], None]
    _log_late: Callable[[LateAnswer, float], None]
    _recorder: Recorder
    _daemon: str
    _pending: list[Ended] = attrs.field(factory=list, init=False)
    _timer: DelayedCall | None = attrs.field(default=None, init=False)
    _deciding: OrderedDict[str, Answer] = attrs.field(factory=OrderedDict, init=False)
    """The answers that decided calls a short while ago, by key; the history has them."""

    def ended(self, ended: Ended) -> None:
        """Queue ``ended``, to be recorded soon."""
        self._pending.append(ended)
        if self._timer is None:
            self._timer = self._clock.callLater(DELAY_S, self.flush)

    def flush(self) -> None:
        """
        Record all that is queued, kind by kind: code that runs for one call after the other is in
        the processor's caches, and takes half the time.
        """
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        pending, self._pending = self._pending, []
        calls = [ended for ended in pending if isinstance(ended, EndedCall)]
        for call in calls:
            self._record_call(call)
        self._keep_calls(calls)
        for ended in pending:
            if isinstance(ended, EndedRequest):
                self._record_request(ended)
            elif isinstance(ended, AcceptedAnswer):
                self._keep_answer(ended)
            elif isinstance(ended, LateAnswer):
                self._record_late_answer(ended)

    def _record_call(self, ended: EndedCall) -> None:
        kind, settlement = ended.kind, ended.settlement
        outcome = None if settlement is None else settlement.outcome
        answer = None if settlement is None else settlement.answer
        self._metrics.call_ended(kind, outcome)
        received_time = None if answer is None else self._time_of(answer)
        self._record_wakeup(ended, outcome, received_time)
        if kind is None or answer is None or received_time is None:
            return
        if ended.accepted_at is not None:
            self._metrics.woken(kind, max(0.0, answer.received_at - ended.accepted_at))
        self._metrics.answered(kind.platform, ended.accepted)
        roundtrip_s = _roundtrip_s(ended.started_at, answer, received_time)
        record = ResponseRecord(kind.platform, roundtrip_s, answer.available, received_time)
        self._log_response(record)

    def _keep_calls(self, calls: Sequence[EndedCall]) -> None:
        """Keep calls, each once it has the results of all its pushes."""
        if not self._recorder.recording:
            return
        records: list[CallRecord] = []
        for ended in calls:
            waking, settlement = ended.waking, ended.settlement
            if waking is None:
                continue
            if settlement is not None and settlement.answer is not None:
                self._deciding[waking.call.unique_key] = settlement.answer
                if len(self._deciding) > MOST_DECIDING:
                    self._deciding.popitem(last=False)
            if waking.sent.in_flight:
                waking.sent.when_quiet(partial(self._keep_later, waking, settlement, ended.pbx))
            else:
                records.append(woken_call(waking, settlement, ended.pbx))
        if records:
            self._recorder.keep_calls(records)

    def _keep_later(self, waking: Waking, settlement: Settlement | None, pbx: str) -> None:
        self._recorder.keep_calls([woken_call(waking, settlement, pbx)])

    def _keep_answer(self, accepted: AcceptedAnswer) -> None:
        """Keep an answer that did not decide its call, or not here."""
        answer, key = accepted.answer, accepted.unique_key
        deciding = self._deciding.get(key)
        if not self._recorder.recording or _is_same(answer, deciding):
            return
        kept = kept_answer(answer, self._time_of(answer))
        if deciding is not None and not answer.id:
            kept = kept._replace(id=secrets.token_hex(4))  # certainly another acceptance
        self._recorder.keep_answer(key, "", kept)

    def _keep_request(self, ended: EndedRequest) -> None:
        """Keep a request that is no call's first: a repeat, or one that was refused."""
        call, trace = ended.call, ended.trace
        if not self._recorder.recording:
            return
        if ended.refused and ended.settlement is not None:
            self._recorder.keep_calls([refused_call(call, trace, ended.settlement)])
        elif ended.joined:
            time = self._wall() - (self._clock.seconds() - trace.began_at)
            account = str(call.incoming.sip_user_id)
            self._recorder.keep_joined(call.unique_key, account, time)

    def _record_wakeup(
        self, ended: EndedCall, outcome: Outcome | None, answered_at: float | None
    ) -> None:
        if ended.device is None:
            return
        found = wakeup(ended.device, outcome, accepted=ended.accepted, answered_at=answered_at)
        if found is not None:
            self._log_wakeup(found)

    def _time_of(self, answer: Answer) -> float:
        """When ``answer`` was received, in epoch seconds."""
        return self._wall() - (self._clock.seconds() - answer.received_at)

    def _record_late_answer(self, late: LateAnswer) -> None:
        self._metrics.late_answer(late.kind, late.late_s)
        now = self._wall()
        self._log_late(late, now)
        kept = KeptAnswer(now, late.available, False, late.late_s * 1000)
        self._recorder.keep_answer(late.unique_key, str(late.sip_user_id), kept)
        self.log.info(
            "late answer to call {fingerprint}: available={available} app={app}"
            " platform={platform} late={late_ms:.1f}",
            fingerprint=fingerprint(late.unique_key),
            available=str(late.available).lower(),
            app=word(late.kind.app),
            platform=late.kind.platform.value,
            late_ms=late.late_s * 1000,
        )

    def _record_request(self, ended: EndedRequest) -> None:
        self._write(ended)
        self._keep_request(ended)
        answer = None if ended.settlement is None else ended.settlement.answer
        replied_at = ended.trace.time_of("replied")
        # A repeat of a call that was answered before did not wait.
        if answer and replied_at and answer.received_at >= ended.trace.began_at:
            self._metrics.passed_on(max(0.0, replied_at - answer.received_at))

    def _write(self, ended: EndedRequest) -> None:
        incoming, key = ended.call.incoming, ended.call.unique_key
        # Anyone who reads the key of a waiting call in the log could answer it.
        waits, mark = ended.waits(), fingerprint(key)
        pbx = {"pbx": ended.pbx} if ended.pbx else {}
        self.log.info(
            "call {outcome}{joined} unique_key={unique_key} fingerprint={fingerprint}"
            " call_id={call_id} sip_user_id={sip_user_id} app={app} platform={platform}"
            " daemon={daemon}" + (" pbx={pbx}" if pbx else "") + "{pushes} {steps}",
            outcome="hung-up" if ended.settlement is None else ended.settlement.outcome.value,
            joined=" (joined)" if ended.joined else "",
            unique_key="-" if waits else key,
            fingerprint=mark,
            call_id=_call_id(incoming.call_id, "" if waits else key),
            sip_user_id=incoming.sip_user_id,
            app=word(ended.kind.app) if ended.kind is not None else "-",
            platform=_platform(ended),
            daemon=self._daemon,
            pushes=_pushes(ended.trace.provider_ids),
            steps=ended.trace.text(),
            durations=LazyField(ended.trace.fields),
            **pbx,
        )
        self.log.debug(
            "call {fingerprint} was from {phonenumber}",
            fingerprint=mark,
            phonenumber=incoming.phonenumber,
        )


def _is_same(answer: Answer, deciding: Answer | None) -> bool:
    """Whether both are one; an acceptance has no id, and decides a call here as it was received."""
    return answer is deciding or (deciding is not None and "" != answer.id == deciding.id)


def _call_id(call_id: str, known: str) -> str:
    """
    The call_id as the PBX sent it. A UUID may be the key of a call to another account that
    still waits, so it is shown only if it is ``known``, the key of this call.
    """
    if is_uuid(call_id) and call_id != known:
        return f"fingerprint:{fingerprint(call_id)}"
    return word(call_id) if call_id else "-"


def _pushes(provider_ids: Sequence[str]) -> str:
    """The providers' ids of the pushes, for their support."""
    return f" pushes={','.join(map(word, provider_ids))}" if provider_ids else ""


def _platform(ended: EndedRequest) -> str:
    if ended.kind is not None:
        return ended.kind.platform.value
    return "unknown" if ended.joined else "none"


def _roundtrip_s(started_at: float, answer: Answer, received_time: float) -> float:
    """
    Seconds from the start time that the phone echoed to its answer; from our own start time
    where the two disagree, since a phone may send anything and the wall clock may have stepped.
    """
    ours = max(0.0, answer.received_at - started_at)
    echoed = received_time - answer.message_start_time
    return echoed if 0.0 <= echoed <= ours + MOST_DIFFERENCE_S else ours
