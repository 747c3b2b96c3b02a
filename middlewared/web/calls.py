"""
The PBX's held request, its cancellation, and the phone's answer to it.

Whatever happens, the PBX gets ``status=ACK`` or ``status=NAK`` and the reason. Nothing waits
between a phone's answer and the ACK.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from middlewared.calls.interface import Calls
from middlewared.calls.trace import Trace
from middlewared.clock import Clock
from middlewared.logs.interface import RepeatCounter
from middlewared.model import AnswerResult, IncomingCall, Outcome
from middlewared.web import fields
from middlewared.web.bodies import RawFields
from middlewared.web.client_address import Address
from middlewared.web.endpoint import Endpoint
from middlewared.web.fields import PhoneAnswer
from middlewared.web.pbx_access import PbxAccess
from middlewared.web.replies import (
    Headers,
    NotFound,
    Refusal,
    Reply,
    TooManyRequests,
    retry_after,
)
from middlewared.web.request import Request
from middlewared.web.settings import Pbx, Rate, WebSettings

_STATUS = {
    Outcome.NO_CALL: 404,
    Outcome.MALFORMED: 400,
    Outcome.FORBIDDEN: 403,
    Outcome.OVERLOADED: 503,
    Outcome.DRAINING: 503,
    Outcome.SERVICE_DOWN: 503,
}
_RETRY_AFTER_S = 2


class CallEndpoints:
    """
    :param repeats: counts the calls above a PBX's limit.
    :param answer_elsewhere: answers a call that is not held here, from the client's address
        and the limit for unknown keys.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        calls: Calls,
        pbxs: PbxAccess,
        repeats: RepeatCounter,
        answer_elsewhere: Callable[[PhoneAnswer, Address | None, Rate], Awaitable[AnswerResult]],
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._pbxs = pbxs
        self._repeats = repeats
        self._answer_elsewhere = answer_elsewhere

    def incoming_call(self) -> Endpoint:
        """The route on which the PBX places its calls and cancels them."""
        return Endpoint(
            "incoming-call",
            "/api/incoming-call",
            {b"POST": self._ring, b"DELETE": self._cancel},
            format_refusal=self._refuse,
            ends_with_client=(b"POST",),
        )

    def call_response(self) -> Endpoint:
        """The route on which phones answer."""
        return Endpoint("call-response", "/api/call-response", {b"POST": self._answer})

    async def _ring(self, request: Request) -> Reply:
        trace = Trace(self._clock.seconds)
        pbx = self._pbxs.identify(request)
        incoming = self.admit(request.fields(), request.settings, pbx)
        if incoming is None:
            return pbx_reply(503, Outcome.OVERLOADED, trace.server_timing())
        request.release()
        outcome = await self._calls.ring(incoming, trace)
        written = partial(trace.mark, "replied")
        timing = trace.server_timing()
        return pbx_reply(_STATUS.get(outcome, 200), outcome, timing, written=written)

    def admit(self, raw: RawFields, settings: WebSettings, pbx: Pbx) -> IncomingCall | None:
        """
        A call of ``pbx``; None: it is above the limit of that PBX, and has been counted.

        :raises BadRequest: a field is missing or wrong.
        """
        incoming = fields.incoming_call(raw, settings, pbx.name)
        if self._is_above_limit(pbx, incoming):
            self._calls.refused(Outcome.OVERLOADED)
            return None
        return incoming

    def _is_above_limit(self, pbx: Pbx, incoming: IncomingCall) -> bool:
        """Whether a PBX places more calls than it may; the repeat of a held call always may."""
        if not pbx.max_calls_per_s or self._calls.holds(incoming):
            return False
        try:
            self._pbxs.take_call(pbx)
        except TooManyRequests:
            self._repeats.count(f"a call of pbx {pbx.name} refused: above its max_calls_per_s")
            return True
        return False

    async def _cancel(self, request: Request) -> Reply:
        trace = Trace(self._clock.seconds)
        self._pbxs.identify(request)
        outcome = await self.cancel(request.fields(), request.settings)
        trace.mark("cancel")
        return pbx_reply(_STATUS.get(outcome, 200), outcome, trace.server_timing())

    async def cancel(self, raw: RawFields, settings: WebSettings) -> Outcome:
        """
        End the call whose caller gave up: CANCELLED or NO_CALL.

        :raises BadRequest: a field is missing or wrong.
        :raises RendezvousDown: it cannot be known now.
        """
        cancelled = await self._calls.cancel(fields.cancelled_call(raw, settings))
        return Outcome.CANCELLED if cancelled else Outcome.NO_CALL

    def _refuse(self, refusal: Refusal, elapsed_ms: float) -> Reply:
        """A refusal in the format of the PBX."""
        self._calls.refused(refusal.outcome)
        timing = f"total;dur={elapsed_ms:.2f}"
        return pbx_reply(refusal.status, refusal.outcome, timing, refusal.headers)

    async def _answer(self, request: Request) -> Reply:
        answer = fields.phone_answer(request.fields(), request.received_at)
        if self._calls.holds_key(answer.unique_key):
            result = await self._calls.answer(answer.unique_key, answer.answer)
        else:
            rate = request.settings.unknown_keys
            result = await self._answer_elsewhere(answer, request.address, rate)
        if result is not AnswerResult.ACCEPTED:
            raise NotFound("no such call")
        return Reply(202)


def pbx_reply(
    status: int,
    outcome: Outcome,
    server_timing: str,
    headers: Headers = (),
    *,
    written: Callable[[], None] | None = None,
) -> Reply:
    """A reply in the format of the PBX."""
    if status == 503 and not headers:
        headers = (retry_after(_RETRY_AFTER_S),)
    return Reply(
        status,
        b"status=ACK" if outcome.acknowledged else b"status=NAK",
        b"text/plain; charset=utf-8",
        (
            (b"X-Outcome", outcome.value.encode("ascii")),
            (b"Server-Timing", server_timing.encode("ascii")),
            *headers,
        ),
        outcome,
        written,
    )
