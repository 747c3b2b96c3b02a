"""
The PBX's held request, and the phone's answer to it.

The one invariant: whatever happens, a PBX is told ``status=ACK`` or ``status=NAK`` and
why; between an answer and its ACK nothing waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from middlewared.calls.interface import Calls
from middlewared.calls.trace import Trace
from middlewared.clock import Clock
from middlewared.model import Outcome
from middlewared.web import fields
from middlewared.web.endpoint import Endpoint, fields_of
from middlewared.web.fields import PhoneAnswer
from middlewared.web.networks import Address, client_address, doubt, within
from middlewared.web.replies import (
    Headers,
    NetworkForbidden,
    NotFound,
    Refusal,
    Reply,
    retry_after,
)
from middlewared.web.request import Request
from middlewared.web.settings import WebSettings

_STATUS = {
    Outcome.MALFORMED: 400,
    Outcome.FORBIDDEN: 403,
    Outcome.OVERLOADED: 503,
    Outcome.DRAINING: 503,
    Outcome.SERVICE_DOWN: 503,
}
_RETRY_AFTER_S = 2


class CallEndpoints:
    """
    :param settings: gives the present settings.
    :param look_up: answers a call that is not held here, from the client's address.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        calls: Calls,
        settings: Callable[[], WebSettings],
        look_up: Callable[[PhoneAnswer, Address | None], Awaitable[bool]],
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._settings = settings
        self._look_up = look_up

    def incoming_call(self) -> Endpoint:
        """Where the PBX posts its calls."""
        return Endpoint(
            "incoming-call",
            "/api/incoming-call",
            {b"POST": self._ring},
            format_refusal=self._refuse,
            ends_with_client=True,
        )

    def call_response(self) -> Endpoint:
        """Where phones answer."""
        return Endpoint("call-response", "/api/call-response", {b"POST": self._answer})

    async def _ring(self, request: Request) -> Reply:
        trace, settings = Trace(self._clock.seconds), self._settings()
        address = pbx_address_of(request, settings)
        if not within(address, settings.pbx_networks):
            raise NetworkForbidden(f"{address or 'its address'} is in none of pbx_networks")
        incoming = fields.incoming_call(fields_of(request), settings)
        request.notifyFinish().addCallbacks(lambda _: trace.mark("replied"), lambda _: None)
        outcome = await self._calls.ring(incoming, trace)
        return pbx_reply(_STATUS.get(outcome, 200), outcome, trace.server_timing())

    def _refuse(self, refusal: Refusal, elapsed_ms: float) -> Reply:
        """A refusal in the form of the PBX."""
        self._calls.refused(refusal.outcome)
        timing = f"total;dur={elapsed_ms:.2f}"
        return pbx_reply(refusal.status, refusal.outcome, timing, refusal.headers)

    async def _answer(self, request: Request) -> Reply:
        said = fields.phone_answer(fields_of(request), request.received_at)
        if self._calls.holds_key(said.unique_key):
            known = await self._calls.answer(said.unique_key, said.answer)
        else:
            known = await self._look_up(said, address_of(request, self._settings()))
        if not known:
            raise NotFound("no such call")
        return Reply(202)


def address_of(request: Request, settings: WebSettings) -> Address | None:
    """The client's own address, seen through trusted proxies."""
    forwarded_for = request.header_texts(b"x-forwarded-for")
    return client_address(request.peer_host, forwarded_for, settings.trusted_proxies)


def pbx_address_of(request: Request, settings: WebSettings) -> Address | None:
    """
    The client's own address, to be looked for in the networks of PBXs.

    :raises NetworkForbidden: it may be anyone's.
    """
    forwarded_for, forwarded = map(request.header_texts, (b"x-forwarded-for", b"forwarded"))
    if why := doubt(request.peer_host, forwarded_for, forwarded, settings.trusted_proxies):
        raise NetworkForbidden(why)
    return address_of(request, settings)


def pbx_reply(status: int, outcome: Outcome, server_timing: str, headers: Headers = ()) -> Reply:
    """The one form a PBX is answered in."""
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
    )
