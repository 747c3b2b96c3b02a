"""
The calls that PBX requests of this daemon wait for, as far as this process knows.

Each waiter is settled at most once, in whatever order answers, failures and deadlines arrive.
Nothing here reads or writes a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs
from twisted.internet.defer import Deferred

from middlewared.clock import Clock, DelayedCall
from middlewared.model import Answer, Call, DeviceKind, IncomingCall, Outcome, Settlement, SipUserId
from middlewared.rendezvous.late import WokenDevice
from middlewared.waiting import FairCall


@attrs.define(eq=False)
class HeldCall:
    """
    A call as this daemon knows it.

    :ivar waker: the id of the waiter here that wakes the device; "": none does.
    :ivar expired: its deadline has passed here.
    :ivar checked_at: when Redis last confirmed the record; 0.0: it is to be asked soon.
    :ivar listed_at: when it was listed for its account in Redis; 0.0: it was not.
    :ivar pushes: how many pushes of the waker are outstanding.
    :ivar refusals: those of the phone that arrived here, by the id of the answer.
    :ivar waiters: those that wait here for the outcome.
    """

    call: Call
    expiry: DelayedCall | FairCall | None = None
    waker: str = ""
    expired: bool = False
    checked_at: float = 0.0
    listed_at: float = 0.0
    ended: Deferred[Settlement | None] = attrs.field(factory=Deferred)
    kind: DeviceKind | None = None
    pushes: int = 0
    refusals: dict[str, Answer] = attrs.field(factory=dict)
    waiters: set[LocalWaiter] = attrs.field(factory=set)
    settlement: Settlement | None = None

    @property
    def woken_device(self) -> WokenDevice | None:
        """The device that is being woken from here; None: none is, or it is not known yet."""
        if self.kind is None or not self.is_woken_here:
            return None
        return WokenDevice(self.call.incoming.sip_user_id, self.kind)

    @property
    def is_woken_here(self) -> bool:
        """Whether this daemon wakes the device."""
        return bool(self.waker) and not self.ended.called

    def has_any_of(self, waiter_ids: Collection[str]) -> bool:
        """Whether one of these waiters waits here or wakes the device."""
        wakes = bool(self.waker) and self.waker in waiter_ids
        return wakes or any(each.id in waiter_ids for each in self.waiters)

    @property
    def is_answered(self) -> bool:
        """Whether a phone has decided the call, as far as is known here."""
        return self.settlement is not None and self.settlement.answer is not None


@attrs.define(eq=False)
class LocalWaiter:
    """A waiter of this daemon; see :class:`~.interface.Waiter`. ``id`` is its name in Redis."""

    _table: HeldCalls
    held: HeldCall
    id: str
    first: bool
    settled: Deferred[Settlement] = attrs.field(factory=Deferred)
    took_over: bool = False

    @property
    def call(self) -> Call:
        return self.held.call

    @property
    def ended(self) -> Deferred[Settlement | None]:
        return self.held.ended

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
        self._table.pushes_changed(self.held)

    def leave(self) -> None:
        self._table.remove_waiter(self)

    def take_over(self, pushes: int) -> None:
        """Wake the device in place of a daemon that died after ``pushes`` pushes."""
        self.first = self.took_over = True
        self.held.waker, self.held.pushes = self.id, pushes


class HeldCalls:
    """
    The table of held calls.

    A call is in it while a waiter waits or its device is woken here, an answered call until
    its deadline, so that a repeat finds it.

    :param timed_out: notified of a call without an answer whose device was woken here.
    :param left: notified when a waiter has left a call that was not decided.
    :param expired: notified of a call whose deadline has passed, to settle or end it; by
        default it times out.
    :ivar pushes_changed: notified when the number of a call's pushes has changed.
    :ivar waiting: how many waiters wait.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        timed_out: Callable[[HeldCall, WokenDevice], None],
        left: Callable[[LocalWaiter], None],
        pushes_changed: Callable[[HeldCall], None],
        expired: Callable[[HeldCall], None] | None = None,
    ) -> None:
        self._clock = clock
        self._timed_out = timed_out
        self._left = left
        self._expired = expired or self.time_out
        self._calls: dict[str, HeldCall] = {}
        self._by_identity: dict[tuple[SipUserId, str], HeldCall] = {}
        self._by_account: dict[SipUserId, dict[str, HeldCall]] = {}
        self.pushes_changed = pushes_changed
        self.waiting = 0

    def all(self) -> list[HeldCall]:
        """All calls, as they are now."""
        return list(self._calls.values())

    def find(self, unique_key: str) -> HeldCall | None:
        """The call of this key; None: no one here waits for it or wakes its device."""
        return self._calls.get(unique_key)

    def find_repeated(self, incoming: IncomingCall) -> HeldCall | None:
        """The call that ``incoming`` repeats, when it waits here or was answered."""
        held = self._by_identity.get(_identity(incoming))
        return held if held is not None and (held.waiters or held.is_answered) else None

    def answerable(self, sip_user_id: SipUserId, call_id: str) -> list[HeldCall]:
        """
        The account's calls that a registration answers: they were opened with
        ``by_registration``, wait here, and had a push from here; a push under way counts.

        :param call_id: of the one call; "": all of them.
        """
        return [
            held
            for held in self._by_account.get(sip_user_id, {}).values()
            if held.waiters and held.is_woken_here and held.pushes and not held.expired
            if call_id in ("", held.call.incoming.call_id)
        ]

    def add(self, call: Call, *, left_s: float) -> HeldCall:
        """Put a call into the table; it expires in ``left_s`` seconds."""
        held = self._calls[call.unique_key] = HeldCall(call)
        held.expiry = self._clock.callLater(max(0.0, left_s), self._expire, held)
        if call.by_registration:
            account = self._by_account.setdefault(call.incoming.sip_user_id, {})
            account[call.unique_key] = held
        if call.incoming.call_id:
            self._by_identity[_identity(call.incoming)] = held
        return held

    def add_waiter(self, held: HeldCall, id: str, *, first: bool = False) -> LocalWaiter:
        """
        A new waiter for the call; it is settled at once when the call is.

        :param first: whether it opened the call and so wakes the device.
        """
        waiter = LocalWaiter(self, held, id, first)
        if first:
            held.waker = id
        if held.settlement is not None:
            waiter.settled.callback(held.settlement)
        else:
            held.waiters.add(waiter)
            self.waiting += 1
        return waiter

    def remove_waiter(self, waiter: LocalWaiter) -> None:
        """Remove a waiter; does nothing if it no longer waits."""
        waiters = waiter.held.waiters
        if waiter in waiters:
            waiters.remove(waiter)
            self.waiting -= 1
            self._left(waiter)

    def settle(self, held: HeldCall, settlement: Settlement) -> None:
        """Notify the waiters; only an answered call stays in the table."""
        if settlement.answer is None:
            self._remove(held)  # first: a waiter acts at once, and must not find it
            if settlement.outcome is Outcome.TIMEOUT and held.settlement is None:
                self._report_timeout(held)
        if held.settlement is None:
            held.settlement = settlement
            waiters, held.waiters = held.waiters, set()
            self.waiting -= len(waiters)
            for waiter in waiters:
                waiter.settled.callback(settlement)
        if not held.ended.called:
            held.ended.callback(held.settlement)

    def time_out(self, held: HeldCall) -> None:
        """Settle the call as TIMEOUT; an answered one is forgotten."""
        self.settle(held, Settlement(Outcome.TIMEOUT))

    def cancel(self, incoming: IncomingCall) -> bool:
        """Settle the call of this account and call_id as CANCELLED; False: none waits here."""
        held = self.find_repeated(incoming)
        if held is None or held.settlement is not None:
            return False
        self.settle(held, Settlement(Outcome.CANCELLED))
        return True

    def refuse(self, held: HeldCall, answer: Answer) -> None:
        """Add a refusal of the phone; it may decide the call."""
        held.refusals[answer.id] = answer
        self.settle_if_refused(held)

    def settle_if_refused(self, held: HeldCall) -> None:
        """Settle a call that is woken here when each of its pushes was refused."""
        refusals = held.refusals
        if held.waiters and held.is_woken_here and refusals and len(refusals) >= held.pushes:
            self.settle(held, Settlement.by(next(reversed(refusals.values()))))

    def end(self, held: HeldCall) -> None:
        """Remove the call: no more pushes are sent for it, and no repeat finds it."""
        self._remove(held)
        if not held.ended.called:
            held.ended.callback(held.settlement)

    def end_unless_waiting(self, held: HeldCall) -> None:
        """End the call if no one here waits for it."""
        if not held.waiters:
            self.end(held)

    def _report_timeout(self, held: HeldCall) -> None:
        if held.woken_device is not None:
            self._timed_out(held, held.woken_device)

    def _remove(self, held: HeldCall) -> None:
        if held.expiry is not None and held.expiry.active():
            held.expiry.cancel()
        held.expiry = None  # it refers to the call: only the collector could free the two
        key, sip_user_id = held.call.unique_key, held.call.incoming.sip_user_id
        if self._calls.get(key) is held:
            del self._calls[key]
        account = self._by_account.get(sip_user_id)
        if account is not None and account.get(key) is held:
            del account[key]
            if not account:
                del self._by_account[sip_user_id]
        identity = _identity(held.call.incoming)
        if self._by_identity.get(identity) is held:
            del self._by_identity[identity]

    def _expire(self, held: HeldCall) -> None:
        """The deadline has passed; what arrived before it, and lies unread, is read first."""
        held.expired = True
        held.expiry = self._clock.callLater(0, self._expired, held)


def _identity(incoming: IncomingCall) -> tuple[SipUserId, str]:
    """What makes two requests of a PBX the same call, unless their call_id is empty."""
    return incoming.sip_user_id, incoming.call_id
