"""
The rendezvous inside one process.

The one invariant: a call is in the table exactly from its first place until its
deadline, or until it failed or was given up; an answered call stays, so that a repeat
finds it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred

from middlewared.clock import Clock, DelayedCall
from middlewared.model import (
    Answer,
    Call,
    DeviceKind,
    IncomingCall,
    LateAnswer,
    Outcome,
    Settlement,
)
from middlewared.rendezvous.late import LateCalls, Woken, ignored


def fresh_key() -> str:
    """32 random hex digits: a unique_key that nobody can guess."""
    return secrets.token_hex(16)


@attrs.define(eq=False)
class _Waiting:
    """A call in the table and the places that wait for it."""

    call: Call
    expiry: DelayedCall
    over: Deferred[Settlement | None] = attrs.field(factory=Deferred)
    kind: DeviceKind | None = None
    pushes: int = 0
    refusals: dict[str, Answer] = attrs.field(factory=dict)
    places: set[MemoryPlace] = attrs.field(factory=set)
    settlement: Settlement | None = None


@attrs.define(eq=False)
class MemoryPlace:
    """A place at a call of this process; see :class:`~.interface.Place`."""

    _rendezvous: MemoryRendezvous
    _waiting: _Waiting
    first: bool
    settled: Deferred[Settlement] = attrs.field(factory=Deferred)
    taken_over: ClassVar[bool] = False

    @property
    def call(self) -> Call:
        return self._waiting.call

    @property
    def over(self) -> Deferred[Settlement | None]:
        return self._waiting.over

    @property
    def kind(self) -> DeviceKind | None:
        return self._waiting.kind

    @kind.setter
    def kind(self, kind: DeviceKind | None) -> None:
        self._waiting.kind = kind

    @property
    def pushes(self) -> int:
        return self._waiting.pushes

    @pushes.setter
    def pushes(self, pushes: int) -> None:
        self._waiting.pushes = pushes
        self._rendezvous.counted(self._waiting)

    def leave(self) -> None:
        self._rendezvous.left(self, self._waiting)


class MemoryRendezvous:
    """
    Calls of one daemon, answered by the same daemon.

    :param clock: the time, and the timers that end calls at their deadline.
    :param late: notified of answers that come after their call has timed out.
    """

    def __init__(self, *, clock: Clock, late: Callable[[LateAnswer], None] = ignored) -> None:
        self._clock = clock
        self._late = LateCalls(clock=clock, late=late)
        self._calls: dict[str, _Waiting] = {}
        self._keys: dict[tuple[int, str], str] = {}
        self._places = 0

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """See :meth:`.interface.Rendezvous.stop`; no timer is left."""
        self.abandon(Outcome.DRAINING)
        for waiting in list(self._calls.values()):
            self._forget(waiting)

    @property
    def up(self) -> None:
        """None: it depends on nothing outside this process."""

    @property
    def waiting(self) -> int:
        """How many places wait."""
        return self._places

    def holds(self, incoming: IncomingCall) -> bool:
        """See :meth:`.interface.Rendezvous.holds`."""
        return (incoming.sip_user_id, incoming.call_id) in self._keys

    async def join(self, call: Call) -> MemoryPlace:
        """See :meth:`.interface.Rendezvous.join`; never down."""
        known = self._calls.get(self._keys.get(_identity(call), ""))
        if known is not None:
            return self._seat(known, first=False)
        if call.unique_key in self._calls:
            call = attrs.evolve(call, unique_key=fresh_key())
        return self._seat(self._open(call), first=True)

    def holds_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.holds_key`."""
        return unique_key in self._calls

    def recognises(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.recognises`; here False is sure as well."""
        return self.holds_key(unique_key) or self._late.knows(unique_key)

    def surely_unknown(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.surely_unknown`."""
        return not self.recognises(unique_key)

    async def answer(self, unique_key: str, answer: Answer) -> bool:
        """See :meth:`.interface.Rendezvous.answer`; the places are told before it returns."""
        waiting = self._calls.get(unique_key)
        if waiting is None:
            self._late.answered(unique_key, answer)
            return False
        if waiting.settlement is None:
            if answer.available:
                self._tell(waiting, Settlement.by(answer))
            else:
                waiting.refusals[answer.id] = answer
                self.counted(waiting)
        return True

    def counted(self, waiting: _Waiting) -> None:
        """After a refusal, or a push that the provider refused: settle the call if it is due."""
        refusals = waiting.refusals
        if waiting.settlement is None and refusals and len(refusals) >= waiting.pushes:
            self._tell(waiting, Settlement.by(next(reversed(refusals.values()))))

    async def settle(self, unique_key: str, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.settle`."""
        waiting = self._calls.get(unique_key)
        if waiting is not None and waiting.settlement is None:
            self._end(waiting, Settlement(outcome))

    def abandon(self, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.abandon`."""
        for waiting in list(self._calls.values()):
            if waiting.settlement is None:
                self._end(waiting, Settlement(outcome))

    def left(self, place: MemoryPlace, waiting: _Waiting) -> None:
        """``place`` was given up: the last one ends a call that nobody has answered."""
        if place not in waiting.places:
            return
        waiting.places.remove(place)
        self._places -= 1
        if not waiting.places and waiting.settlement is None:
            self._forget(waiting)
            waiting.over.callback(None)

    def _open(self, call: Call) -> _Waiting:
        delay = max(0.0, call.deadline - self._clock.seconds())
        expiry = self._clock.callLater(delay, self._expire, call.unique_key)
        waiting = self._calls[call.unique_key] = _Waiting(call, expiry)
        if call.incoming.call_id:
            self._keys[_identity(call)] = call.unique_key
        return waiting

    def _seat(self, waiting: _Waiting, *, first: bool) -> MemoryPlace:
        place = MemoryPlace(self, waiting, first)
        if waiting.settlement is not None:
            place.settled.callback(waiting.settlement)
            return place
        waiting.places.add(place)
        self._places += 1
        return place

    def _expire(self, unique_key: str) -> None:
        """The deadline has passed; what arrived before it, and lies unread, is read first."""
        self._calls[unique_key].expiry = self._clock.callLater(0, self._expired, unique_key)

    def _expired(self, unique_key: str) -> None:
        waiting = self._calls[unique_key]
        if waiting.settlement is None:
            self._end(waiting, Settlement(Outcome.TIMEOUT))
        else:
            self._forget(waiting)

    def _end(self, waiting: _Waiting, settlement: Settlement) -> None:
        if settlement.outcome is Outcome.TIMEOUT and waiting.kind is not None:
            woken = Woken(waiting.call.incoming.sip_user_id, waiting.kind)
            self._late.ended(waiting.call.unique_key, woken)
        self._forget(waiting)
        self._tell(waiting, settlement)

    def _tell(self, waiting: _Waiting, settlement: Settlement) -> None:
        waiting.settlement = settlement
        places, waiting.places = waiting.places, set()
        self._places -= len(places)
        for place in places:
            place.settled.callback(settlement)
        waiting.over.callback(settlement)

    def _forget(self, waiting: _Waiting) -> None:
        if waiting.expiry.active():
            waiting.expiry.cancel()
        del self._calls[waiting.call.unique_key]
        if self._keys.get(_identity(waiting.call)) == waiting.call.unique_key:
            del self._keys[_identity(waiting.call)]


def _identity(call: Call) -> tuple[int, str]:
    """What makes two requests of a PBX the same call; an empty call_id never matches."""
    return (call.incoming.sip_user_id, call.incoming.call_id)
