"""
Test calls: an operator rings a phone as a PBX would, and watches each step.

A test call that ended is remembered for ten minutes, so its result is there even if no history
is kept; at most :data:`MOST` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred

from middlewared.background import Background
from middlewared.calls.trace import Trace
from middlewared.clock import Clock
from middlewared.model import IncomingCall, Outcome, SipUserId

MOST = 100
REMEMBERED_S = 600.0


class Rings(Protocol):
    """See :meth:`middlewared.calls.interface.Calls.ring`."""

    async def ring(self, incoming: IncomingCall, trace: Trace) -> Outcome: ...


@attrs.define(kw_only=True)
class OperatorCall:
    """
    One test call.

    :ivar outcome: None while it waits.
    """

    unique_key: str
    sip_user_id: SipUserId
    began_at: float
    trace: Trace
    outcome: str | None = None

    @property
    def steps(self) -> Sequence[tuple[str, float]]:
        """Names and milliseconds, as in Server-Timing."""
        return [(step.label, took_ms) for step, took_ms in self.trace.durations_ms()]


class OperatorCalls:
    """:param calls: rings the phone."""

    def __init__(self, *, clock: Clock, calls: Rings) -> None:
        self._clock = clock
        self._calls = calls
        self._known: dict[str, OperatorCall] = {}
        self._work = Background()

    async def stop(self) -> None:
        """Wait for those that ring; the daemon has drained, so they are over."""
        await self._work.finish()

    def find(self, unique_key: str) -> OperatorCall | None:
        """A test call of the last minutes; None: it is none."""
        call = self._known.get(unique_key)
        expired = call is not None and call.began_at < self._clock.seconds() - REMEMBERED_S
        return None if expired else call

    def place(self, sip_user_id: SipUserId) -> tuple[OperatorCall, Deferred[None]]:
        """Ring the phone; the Deferred fires when the call is over, whatever its outcome."""
        key = str(uuid4())
        trace = Trace(self._clock.seconds)
        call = OperatorCall(
            unique_key=key, sip_user_id=sip_user_id, began_at=trace.began_at, trace=trace
        )
        self._known[key] = call
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        over: Deferred[None] = Deferred()
        self._work.run(self._ring(call, over))
        return call, over

    async def _ring(self, call: OperatorCall, over: Deferred[None]) -> None:
        incoming = IncomingCall(
            sip_user_id=call.sip_user_id,
            phonenumber="anonymous",
            caller_id="middlewared test call",
            call_id=call.unique_key,
        )
        try:
            call.outcome = (await self._calls.ring(incoming, call.trace)).value
        finally:
            call.outcome = call.outcome or Outcome.SERVICE_DOWN.value
            if not over.called:  # else its waiter has gone
                over.callback(None)
