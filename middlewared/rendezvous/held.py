"""
The calls that this daemon's PBX connections wait for: the local half of the shared rendezvous.

The one invariant: each place is settled once, whatever messages arrive in which order.
Nothing here reads or writes a socket.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

from middlewared.clock import Clock, DelayedCall
from middlewared.model import Answer, Call, DeviceKind, IncomingCall, Outcome, Settlement
from middlewared.rendezvous.late import Woken
from middlewared.rendezvous.redis.records import identity_key


@attrs.define(eq=False)
class SharedPlace:
    """A place at a shared call; see :class:`~.interface.Place`. ``member`` names it in Redis."""

    held: Held
    member: str
    first: bool
    _left: Callable[[SharedPlace], None]
    _counted: Callable[[Held], None]
    settled: Deferred[Settlement] = attrs.field(factory=Deferred)
    taken_over: bool = False

    @property
    def call(self) -> Call:
        return self.held.call

    @property
    def over(self) -> Deferred[Settlement | None]:
        return self.held.over

    @property
    def kind(self) -> DeviceKind | None:
        return self.held.kind

    @kind.setter
    def kind(self, kind: DeviceKind | None) -> None:
        self.held.kind = kind

    @property
    def pushes(self) -> int:
        return self.held.pushes

    @pushes.setter
    def pushes(self, pushes: int) -> None:
        self.held.pushes = pushes
        self._counted(self.held)

    def leave(self) -> None:
        self._left(self)

    def take_over(self, pushes: int) -> None:
        """Wake the device in place of a daemon that died after ``pushes`` pushes."""
        self.first = self.taken_over = True
        self.held.waker, self.held.pushes = self.member, pushes


@attrs.define(eq=False)
class Held:
    """
    A call as this daemon knows it.

    ``waker`` is the member that wakes the device, "" when it is not one of ours; ``pushes``
    counts its pushes. ``refusals`` are those of the phone that arrived here, by id.
    ``checked_at`` is when Redis last confirmed the record.
    """

    call: Call
    expiry: DelayedCall | None = None
    waker: str = ""
    checked_at: float = 0.0
    over: Deferred[Settlement | None] = attrs.field(factory=Deferred)
    kind: DeviceKind | None = None
    pushes: int = 0
    refusals: dict[str, Answer] = attrs.field(factory=dict)
    places: set[SharedPlace] = attrs.field(factory=set)
    settlement: Settlement | None = None

    @property
    def woken(self) -> Woken | None:
        """The device that was woken; None: none was."""
        return None if self.kind is None else Woken(self.call.incoming.sip_user_id, self.kind)

    @property
    def waits(self) -> bool:
        """Whether somebody here still waits for an outcome."""
        return bool(self.places)

    @property
    def wakes(self) -> bool:
        """Whether the device is being woken from here."""
        return bool(self.waker) and not self.over.called

    @property
    def answered(self) -> bool:
        """Whether a phone has decided the call, as far as is known here."""
        return self.settlement is not None and self.settlement.answer is not None


class HeldCalls:
    """
    The table of held calls. A call is in it while a place waits or its device is woken
    here; an answered one until its deadline, so that a repeat finds it.

    :param grace_s: how long after its deadline a call may still get an answer that was
        accepted elsewhere just before it.
    :param timed_out: notified of a call that got no answer, and of the device woken here.
    """

    def __init__(
        self, *, clock: Clock, grace_s: float, timed_out: Callable[[str, Woken], None]
    ) -> None:
        self._clock = clock
        self._timed_out = timed_out
        self._grace_s = grace_s
        self._calls: dict[str, Held] = {}
        self._same: dict[str, Held] = {}
        self.waiting = 0

    def all(self) -> list[Held]:
        """All calls, as they are now."""
        return list(self._calls.values())

    def find(self, unique_key: str) -> Held | None:
        """The call of this key, None when nobody here has to do with it."""
        return self._calls.get(unique_key)

    def repeated(self, incoming: IncomingCall) -> Held | None:
        """The call that ``incoming`` repeats, when it waits here or was answered."""
        held = self._same.get(identity_key(incoming)) if self._same else None
        return held if held is not None and (held.waits or held.answered) else None

    def hold(self, call: Call, *, left_s: float) -> Held:
        """Put a call into the table; it times out in ``left_s`` seconds."""
        held = self._calls[call.unique_key] = Held(call)
        delay = max(0.0, left_s) + self._grace_s
        held.expiry = self._clock.callLater(delay, self._expire, held)
        if identity := identity_key(call.incoming):
            self._same[identity] = held
        return held

    def seat(
        self,
        held: Held,
        member: str,
        *,
        first: bool,
        left: Callable[[SharedPlace], None],
        counted: Callable[[Held], None],
    ) -> SharedPlace:
        """
        A new place at the call; settled at once when the call is.

        :param left: notified when the place is given up.
        :param counted: notified when the number of pushes has changed.
        """
        place = SharedPlace(held, member, first, left, counted)
        if first:
            held.waker = member
        if held.settlement is not None:
            place.settled.callback(held.settlement)
        else:
            held.places.add(place)
            self.waiting += 1
        return place

    def unseat(self, place: SharedPlace) -> bool:
        """Take a place away; False when it does not wait any more."""
        if place not in place.held.places:
            return False
        place.held.places.remove(place)
        self.waiting -= 1
        return True

    def settle(self, held: Held, settlement: Settlement) -> None:
        """Tell the places that wait; only an answered call stays in the table."""
        if held.settlement is None:
            woken = held.woken if held.wakes else None
            if settlement.outcome is Outcome.TIMEOUT and woken is not None:
                self._timed_out(held.call.unique_key, woken)
            held.settlement = settlement
            places, held.places = held.places, set()
            self.waiting -= len(places)
            for place in places:
                place.settled.callback(settlement)
        if settlement.answer is None:
            self.end(held)
        elif not held.over.called:
            held.over.callback(held.settlement)

    def refuse(self, held: Held, answer: Answer) -> None:
        """Note a refusal of the phone that Redis has not got."""
        held.refusals[answer.id] = answer
        self.count(held)

    def count(self, held: Held) -> None:
        """Settle a call that is woken here if it has enough refusals, while Redis cannot."""
        refusals = held.refusals
        if held.waits and held.wakes and refusals and len(refusals) >= held.pushes:
            self.settle(held, Settlement.by(next(reversed(refusals.values()))))

    def _expire(self, held: Held) -> None:
        """The deadline has passed; what arrived before it, and lies unread, is read first."""
        timeout = Settlement(Outcome.TIMEOUT)
        held.expiry = self._clock.callLater(0, self.settle, held, timeout)

    def end(self, held: Held) -> None:
        """The call is over here: nothing is to be pushed or remembered."""
        if held.expiry is not None and held.expiry.active():
            held.expiry.cancel()
        held.expiry = None  # it refers to the call: only the collector could free the two
        if self._calls.get(held.call.unique_key) is held:
            del self._calls[held.call.unique_key]
        identity = identity_key(held.call.incoming)
        if self._same.get(identity) is held:
            del self._same[identity]
        if not held.over.called:
            held.over.callback(held.settlement)
