"""
What is told of calls that have ended: a log line, metrics, a row for response_log.

The one invariant: nothing of it is done before the reply to the PBX has left. Ended
calls are put down and told a moment later, many at once under load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from middlewared.calls.ringing import EndedCall
from middlewared.clock import Clock, DelayedCall
from middlewared.model import Answer, Outcome, Platform, ResponseRecord

PUT_OFF_S = 0.02
LONGEST_ROUNDTRIP_S = 3600.0


class CallMetrics(Protocol):
    """Counts calls; implemented by :class:`middlewared.metrics.Metrics`."""

    def call_ended(self, platform: Platform | None, outcome: Outcome) -> None:
        """A call has ended; ``platform`` None: no device."""

    def answered(
        self, platform: Platform | None, *, answer_to_ack_s: float, wakeup_s: float | None
    ) -> None:
        """A phone's answer was passed on; ``wakeup_s``: from the accepted push to it."""


class Journal:
    """
    Tells of ended calls.

    :param log_response: takes a phone's first answer for the response log.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: CallMetrics,
        log_response: Callable[[ResponseRecord], None],
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._log_response = log_response
        self._untold: list[EndedCall] = []
        self._telling: DelayedCall | None = None

    def ended(self, call: EndedCall) -> None:
        """Put ``call`` down, to be told soon."""
        self._untold.append(call)
        if self._telling is None:
            self._telling = self._clock.callLater(PUT_OFF_S, self.flush)

    def flush(self) -> None:
        """Tell all that was put down."""
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        self._telling = None
        untold, self._untold = self._untold, []
        for call in untold:
            self._tell(call)

    def _tell(self, ended: EndedCall) -> None:
        self._write(ended)
        if ended.settlement is None:
            return
        platform = ended.device.platform if ended.device is not None else None
        if not ended.joined:
            self._metrics.call_ended(platform, ended.settlement.outcome)
        answer = ended.settlement.answer
        if answer is not None and not ended.joined:
            self._tell_answer(ended, platform, answer)

    def _tell_answer(self, ended: EndedCall, platform: Platform | None, answer: Answer) -> None:
        replied_at = ended.trace.time_of("replied")
        pushed_at = ended.trace.time_of("push")
        if replied_at is not None:
            self._metrics.answered(
                platform,
                answer_to_ack_s=max(0.0, replied_at - answer.received_at),
                wakeup_s=None if pushed_at is None else max(0.0, answer.received_at - pushed_at),
            )
        if platform is not None:
            self._log_response(
                ResponseRecord(
                    platform, _roundtrip_s(ended, answer), answer.available, answer.received_at
                )
            )

    def _write(self, ended: EndedCall) -> None:
        incoming = ended.call.incoming
        self.log.info(
            "call {outcome}{joined} unique_key={unique_key} call_id={call_id}"
            " sip_user_id={sip_user_id} platform={platform} {steps}",
            outcome="hung-up" if ended.settlement is None else ended.settlement.outcome.value,
            joined=" (joined)" if ended.joined else "",
            unique_key=ended.call.unique_key,
            call_id=incoming.call_id or "-",
            sip_user_id=incoming.sip_user_id,
            platform=ended.device.platform.value if ended.device is not None else "none",
            steps=ended.trace.text(),
        )
        self.log.debug(
            "call {unique_key} was from {phonenumber}",
            unique_key=ended.call.unique_key,
            phonenumber=incoming.phonenumber,
        )


def _roundtrip_s(ended: EndedCall, answer: Answer) -> float:
    """From the start time the phone echoed, or from our own record where that is absurd."""
    told = answer.received_at - answer.message_start_time
    if 0.0 <= told <= LONGEST_ROUNDTRIP_S:
        return told
    return max(0.0, answer.received_at - ended.call.started_at)
