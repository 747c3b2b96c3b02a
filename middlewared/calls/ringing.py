"""
One call, from the PBX's request to its outcome.

Every request gets exactly one outcome, no later than its call's deadline. Between a phone's
answer and that outcome nothing else is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Protocol, TypeAlias

import attrs
from twisted.internet.defer import Deferred, succeed

from middlewared.calls import call_facts
from middlewared.calls.interface import OpenCall
from middlewared.calls.trace import Trace
from middlewared.calls.waking import Waker, Waking, WakingSettings
from middlewared.clock import Clock, WallClock
from middlewared.errors import RendezvousDown
from middlewared.model import (
    Answer,
    AnswerResult,
    Call,
    Device,
    DeviceKind,
    IncomingCall,
    LateAnswer,
    Outcome,
    Settlement,
    SipUserId,
)
from middlewared.rendezvous.interface import Rendezvous, Waiter

_WAITED = (Outcome.TIMEOUT, Outcome.DRAINING)
"""Outcomes that end a wait: its time is not the reply's."""
_HEX = "[0-9A-Fa-f]"
_UUID = re.compile(f"{_HEX}{{32}}|{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}")


@attrs.frozen
class RingingSettings:
    """For new calls; those that wait keep the settings they began with."""

    wait_s: float
    max_waiting: int
    waking: WakingSettings
    waits_s: Mapping[str, float] = attrs.field(factory=dict)
    """Those of PBXs with a wait of their own, by name."""
    answer_by_registration: bool = False


@attrs.frozen
class EndedRequest:
    """
    A request of a PBX has ended, with its call or before it.

    ``pbx``: the name of the PBX's section, or "". ``joined``: it repeated a known call.
    ``kind``: of the call's device; None: it has none, or another daemon wakes it.
    ``settlement``: None: the PBX closed its connection. ``waits``: whether the call may still
    wait for its phone. ``refused``: it never became a call.
    """

    call: Call
    trace: Trace
    joined: bool
    kind: DeviceKind | None
    settlement: Settlement | None
    pbx: str = ""
    waits: Callable[[], bool] = attrs.field(default=lambda: False, eq=False)
    refused: bool = False


@attrs.frozen
class EndedCall:
    """
    A call has ended; reported once, however many requests it had.

    ``kind`` and ``device``: None: it has no device. ``accepted``: how many pushes the provider
    accepted, the first of them at ``accepted_at``. ``settlement``: None: every PBX connection
    was closed. ``waking``: how its device was woken; None: it never became a call. ``pbx``: of
    the request for which it was woken.
    """

    kind: DeviceKind | None
    started_at: float
    accepted_at: float | None
    settlement: Settlement | None
    accepted: int = 0
    device: Device | None = None
    waking: Waking | None = None
    pbx: str = ""


@attrs.frozen
class AcceptedAnswer:
    """A phone's answer was accepted here: it decided its call, or it was one of several."""

    unique_key: str
    answer: Answer


Ended: TypeAlias = EndedRequest | EndedCall | LateAnswer | AcceptedAnswer


class Admission(Protocol):
    """Decides whether there is time for a new call; see :class:`~.overload.Overload`."""

    def admits(self) -> bool:
        """Whether a new call is taken now."""

    def taken(self) -> None:
        """Count a call that was taken."""

    def refuse(self) -> None:
        """Count a call that was refused."""


@attrs.define(kw_only=True, eq=False, repr=False)
class Ringing:
    """
    Rings devices; implements :class:`~.interface.Calls` and :class:`~.interface.OpenCalls`.

    :param ended: notified of every request and every call that ended, right before the reply
        is written, and of every answer that was accepted, so it must defer all work.
    :param new_key: gives a fresh unguessable unique_key.
    :ivar draining: set it to refuse new calls.
    :ivar waiting: how many requests are held.
    """

    _clock: Clock
    _wall: WallClock
    _rendezvous: Rendezvous
    _waker: Waker
    _admission: Admission
    _ended: Callable[[Ended], None]
    _new_key: Callable[[], str]
    settings: RingingSettings
    draining: bool = attrs.field(default=False, init=False)
    waiting: int = attrs.field(default=0, init=False)
    _idle: Deferred[None] | None = attrs.field(default=None, init=False)
    _wakings: dict[str, Waking] = attrs.field(factory=dict, init=False)

    async def ring(self, incoming: IncomingCall, trace: Trace) -> Outcome:
        call = self._call(incoming)
        refusal = self._refusal(call)
        if refusal is Outcome.OVERLOADED:
            self._admission.refuse()
            return refusal
        if refusal is not None:
            return self._refuse(call, trace, refusal)
        self._admission.taken()
        self.waiting += 1
        try:
            return await self._hold(call, trace)
        except RendezvousDown:
            return self._refuse(call, trace, Outcome.SERVICE_DOWN)
        finally:
            self.waiting -= 1
            if not self.waiting and self._idle is not None:
                idle, self._idle = self._idle, None
                idle.callback(None)

    async def registered(self, sip_user_id: SipUserId, call_id: str, received_at: float) -> int:
        if not self.settings.answer_by_registration:
            return 0
        answer = Answer(available=True, message_start_time=0.0, received_at=received_at)
        return await self._rendezvous.answer_account(sip_user_id, call_id, answer)

    async def cancel(self, incoming: IncomingCall) -> bool:
        return await self._rendezvous.cancel(incoming)

    def holds(self, incoming: IncomingCall) -> bool:
        return self._rendezvous.holds(incoming)

    def holds_key(self, unique_key: str) -> bool:
        return self._rendezvous.holds_key(unique_key)

    def rules_out_key(self, unique_key: str) -> bool:
        return self._rendezvous.rules_out_key(unique_key)

    def knows_key(self, unique_key: str) -> bool:
        return self._rendezvous.knows_key(unique_key)

    async def answer(self, unique_key: str, answer: Answer) -> AnswerResult:
        result = await self._rendezvous.answer(unique_key, answer)
        if result is AnswerResult.ACCEPTED:
            self._ended(AcceptedAnswer(unique_key, answer))
        return result

    @property
    def overloaded(self) -> bool:
        return self.waiting >= self.settings.max_waiting or not self._admission.admits()

    def refuse_if_new(self, incoming: IncomingCall) -> bool:
        if self._rendezvous.holds(incoming):
            return False
        self._admission.refuse()
        return True

    def refused(self, outcome: Outcome) -> None:
        self._ended(EndedCall(None, self._clock.seconds(), None, Settlement(outcome)))

    def idle(self) -> Deferred[None]:
        """Fires when no request is held; for one caller, the drain."""
        if not self.waiting:
            return succeed(None)
        self._idle = Deferred()
        return self._idle

    async def _hold(self, call: Call, trace: Trace) -> Outcome:
        """Join the call and wait for its outcome."""
        waiter = await self._rendezvous.join(call)
        settlement = None
        try:
            if waiter.first:
                self._wake(waiter, trace, call.incoming.pbx)
            settlement = await waiter.settled
        finally:
            waiter.leave()
            if settlement is None:
                trace.mark("hung-up")
            elif settlement.answer is not None:
                trace.mark("answer", settlement.answer.received_at)
            elif settlement.outcome in _WAITED:
                trace.mark(settlement.outcome.value)
            joined = not waiter.first
            pbx = call.incoming.pbx
            ended = EndedRequest(waiter.call, trace, joined, waiter.kind, settlement, pbx)
            if settlement is None:
                ended = attrs.evolve(ended, waits=partial(_may_wait, waiter))
            self._ended(ended)
        return settlement.outcome

    def open_calls(self, most: int) -> Sequence[OpenCall]:
        newest = islice(reversed(self._wakings.values()), most)
        return [call_facts.open_call(waking) for waking in newest]

    def open_call(self, unique_key: str) -> OpenCall | None:
        waking = self._wakings.get(unique_key)
        return None if waking is None else call_facts.open_call(waking)

    def _refusal(self, call: Call) -> Outcome | None:
        """Why ``call`` is refused now; None: it is not. A repeat of a held call never is."""
        if not (self.draining or self.overloaded) or self._rendezvous.holds(call.incoming):
            return None
        return Outcome.DRAINING if self.draining else Outcome.OVERLOADED

    def _refuse(self, call: Call, trace: Trace, outcome: Outcome) -> Outcome:
        """Report a call that was not joined."""
        pbx, settlement = call.incoming.pbx, Settlement(outcome)
        self._ended(EndedRequest(call, trace, False, None, settlement, pbx, refused=True))
        self.refused(outcome)
        return outcome

    def _call(self, incoming: IncomingCall) -> Call:
        """
        Open a new call. Deployed iOS apps parse its key as a UUID, and anyone who guesses a
        key could answer, so a call_id serves as the key only if it is a UUID.
        """
        key = incoming.call_id if is_uuid(incoming.call_id) else self._new_key()
        started_at = self._clock.seconds()
        deadline = started_at + self.settings.waits_s.get(incoming.pbx, self.settings.wait_s)
        by_registration = self.settings.answer_by_registration
        return Call(key, incoming, started_at, deadline, self._wall(), by_registration)

    def _wake(self, waiter: Waiter, trace: Trace, pbx: str) -> None:
        """Wake the device of the call that ``waiter`` has opened, until the call is over."""
        waking = self._waker.waking(waiter, trace, self.settings.waking)

        def over(settlement: Settlement | None) -> None:
            waking.stop()
            if self._wakings.get(waiter.call.unique_key) is waking:
                del self._wakings[waiter.call.unique_key]
            ended = EndedCall(
                kind=waiter.kind,
                started_at=waiter.call.started_at,
                accepted_at=waking.accepted_at,
                settlement=settlement,
                accepted=waking.accepted,
                device=waking.device,
                waking=waking,
                pbx=pbx,
            )
            self._ended(ended)

        self._wakings[waiter.call.unique_key] = waking
        waiter.ended.addCallback(over)
        waking.start()


def _may_wait(waiter: Waiter) -> bool:
    """Whether others may wait for the call; only the daemon that wakes the phone knows."""
    return not (waiter.first and waiter.ended.called)


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID of 32 hex digits, dashed (RFC 9562 section 4) or not."""
    return _UUID.fullmatch(text) is not None
