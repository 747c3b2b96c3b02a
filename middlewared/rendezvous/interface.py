"""
The rendezvous: where a phone's answer finds the call that waits for it.

The one invariant: a call is settled at most once, and every place at it gets the
same outcome.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from middlewared.model import Answer, Call, DeviceKind, IncomingCall, Outcome, Settlement


class Place(Protocol):
    """
    One PBX connection's place at a waiting call.

    Its owner calls ``leave`` when the connection has ended or been answered.

    :ivar kind: of the device that is woken for the call. The waker sets it for all places of
        this daemon at the call; None: not known here.
    :ivar pushes: how many pushes of the call are outstanding: accepted by the provider, in
        flight, or uncertain. The waker sets it; that many refusals of the phone settle the
        call. A place that takes over from a daemon that died starts with the pushes it sent.
    """

    kind: DeviceKind | None
    pushes: int

    @property
    def taken_over(self) -> bool:
        """
        Whether this place took over waking the device from a daemon that died.

        That daemon may have sent one push more than ``pushes``, if it was killed in between.
        """

    @property
    def call(self) -> Call:
        """The call waited for: the one that was opened first, when this place joined it."""

    @property
    def first(self) -> bool:
        """True when this place opened the call and so must wake the device."""

    @property
    def settled(self) -> Deferred[Settlement]:
        """
        Fires once with the outcome: ANSWERED or UNAVAILABLE (the phone), what ``settle``
        gave, TIMEOUT at the call's deadline, or what ``abandon`` gave. Already fired
        when the place belongs to a call that was answered before. Never fails.
        """

    @property
    def over(self) -> Deferred[Settlement | None]:
        """
        Fires once when nobody waits for the device any more: with the call's settlement,
        or None when the last place was left. Only the first place's is of use: it fires
        once for each call, whichever of its places were left before.
        """

    def leave(self) -> None:
        """Give the place up; harmless when repeated. The last one to leave ends the call."""


class Rendezvous(Protocol):
    """Where calls wait and answers arrive. Calls live until their deadline, then vanish."""

    async def start(self) -> None:
        """Connect, if there is anything to connect to; goes on trying when that is away."""

    async def stop(self) -> None:
        """Settle all that wait as DRAINING and disconnect."""

    @property
    def up(self) -> bool | None:
        """
        Whether what it depends on outside this process answers, as far as is known.

        None: it depends on nothing.
        """

    @property
    def waiting(self) -> int:
        """How many places at this daemon wait now."""

    def holds(self, incoming: IncomingCall) -> bool:
        """Whether it repeats a call that has a place at this daemon, or was answered here."""

    async def join(self, call: Call) -> Place:
        """
        Take a place at ``call``.

        A waiting or answered call with the same sip_user_id and the same non-empty
        call_id is joined instead. The place's call has a fresh random key when
        ``call.unique_key`` is, or may be, in use by another account's call; a shared
        rendezvous may also give one to a call whose key is not its call_id.

        :raises RendezvousDown: the call can neither be opened nor joined.
        """

    def holds_key(self, unique_key: str) -> bool:
        """Whether a call of this key waits here, or was answered here within its wait."""

    def recognises(self, unique_key: str) -> bool:
        """
        Whether the key is known, at once and without asking anybody, to be of a call of ours.

        True when the call is held here, or the key proves that a daemon of this rendezvous
        has made it (the call may be over). False does not prove the contrary: a call_id that
        serves as the key of a call held elsewhere is not recognised.
        """

    def surely_unknown(self, unique_key: str) -> bool:
        """Whether :meth:`answer` would find no call of this key, without asking anyone."""

    async def answer(self, unique_key: str, answer: Answer) -> bool:
        """
        A phone answered.

        An available answer settles the call as ANSWERED. Refusals settle it as UNAVAILABLE
        once there are as many, at all daemons together, as outstanding pushes: deployed apps
        refuse a repeat of a push that they are still handling, and accept a moment later.

        :return: False when no call of this key waits or was answered within its wait:
            unknown, too late, or every PBX connection gone. True otherwise; a repeat is
            True and changes nothing.
        :raises RendezvousDown: it cannot be known.
        """

    async def settle(self, unique_key: str, outcome: Outcome) -> None:
        """End a waiting call early with a definitive ``outcome``; nothing when it is over."""

    def abandon(self, outcome: Outcome) -> None:
        """Settle every place that waits at this daemon, at once (the end of a drain)."""
