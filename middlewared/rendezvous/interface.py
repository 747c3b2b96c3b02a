"""The rendezvous: where a phone's answer finds the PBX requests that wait for it."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from middlewared.model import (
    Answer,
    AnswerResult,
    Call,
    DeviceKind,
    IncomingCall,
    Outcome,
    Settlement,
    SipUserId,
)


class Waiter(Protocol):
    """
    One held request of a PBX, which waits for the outcome of a call.

    A repeated request is a second waiter for the same call. The owner of a waiter calls
    ``leave`` when the request has been answered or its connection has ended.

    :ivar kind: of the device that is woken for the call. The first waiter's owner sets it for
        all waiters of this daemon; None: not known here.
    :ivar pushes: how many pushes of the call are outstanding: accepted by the provider, in
        flight, or uncertain. The first waiter's owner sets it; that many refusals of the phone
        settle the call. A waiter that takes over from a daemon that died starts with the
        pushes which that daemon sent.
    """

    kind: DeviceKind | None
    pushes: int

    @property
    def call(self) -> Call:
        """The call waited for: the one that was opened first, when this waiter joined it."""

    @property
    def first(self) -> bool:
        """Whether the device must be woken for this waiter: it opened the call, or took over."""

    @property
    def took_over(self) -> bool:
        """
        Whether this waiter took over waking the device from a daemon that died.

        That daemon may have sent one push more than ``pushes``, if it was killed in between.
        """

    @property
    def settled(self) -> Deferred[Settlement]:
        """
        Fires once with the outcome: ANSWERED or UNAVAILABLE (the phone), the outcome given to
        ``settle`` or ``settle_all``, or TIMEOUT at the call's deadline. Already fired when
        the call was answered before. Never fails, and never fires after ``leave``.
        """

    @property
    def ended(self) -> Deferred[Settlement | None]:
        """
        Fires once when the device need not be woken any more: with the call's settlement, or
        None when the last waiter has left. It belongs to the call, not to the waiter; useful
        where the device is woken.
        """

    def leave(self) -> None:
        """Stop waiting; harmless when repeated. The last waiter to leave ends the call."""


class Rendezvous(Protocol):
    """
    Where calls wait and answers arrive.

    A call is settled at most once, with the same outcome for all its waiters. It is
    forgotten at its deadline.
    """

    async def start(self) -> None:
        """Connect, if there is anything to connect to; goes on trying when that is away."""

    async def stop(self) -> None:
        """Settle all waiters as DRAINING and disconnect."""

    @property
    def up(self) -> bool | None:
        """
        Whether what it depends on outside this process answers, as far as is known.

        None: it depends on nothing there, or nothing is known yet.
        """

    @property
    def waiting(self) -> int:
        """How many waiters of this daemon wait."""

    def holds(self, incoming: IncomingCall) -> bool:
        """Whether it repeats a call that waits at this daemon, or was answered here."""

    def holds_key(self, unique_key: str) -> bool:
        """Whether a call of this key is held here, or was answered here within its wait."""

    def knows_key(self, unique_key: str) -> bool:
        """
        Whether the key is certainly that of a call of this rendezvous; asks no one.

        True when the call is held here, or the key proves that a daemon of this rendezvous
        made it (the call may be over). False proves nothing: a call_id that serves as
        the key of a call held elsewhere is not known here.
        """

    def rules_out_key(self, unique_key: str) -> bool:
        """Whether :meth:`answer` would certainly find no call of this key; asks no one."""

    async def join(self, call: Call) -> Waiter:
        """
        Open ``call`` and wait for it.

        A waiting or answered call with the same sip_user_id and the same non-empty
        call_id is joined instead. The waiter's call has a fresh random key when
        ``call.unique_key`` is, or may be, in use by another account's call; a shared
        rendezvous may also give one to a call whose key is not its call_id.

        :raises RendezvousDown: the call can neither be opened nor joined.
        """

    async def answer(self, unique_key: str, answer: Answer) -> AnswerResult:
        """
        A phone answered.

        An available answer settles the call as ANSWERED. Refusals settle it as UNAVAILABLE
        once there are as many, at all daemons together, as outstanding pushes: deployed apps
        refuse a repeat of a push that they are still handling, and accept a moment later.

        :raises RendezvousDown: the result cannot be known now.
        """

    async def answer_account(self, sip_user_id: SipUserId, call_id: str, answer: Answer) -> int:
        """
        The account has registered at the SIP registrar: answer its calls that had a push.

        Only those that were opened with ``by_registration``, at whichever member.

        :param call_id: of the one call to answer; "": all of the account.
        :param answer: an available one.
        :return: how many calls it has decided.
        :raises RendezvousDown: none is known to wait, and it cannot be known now.
        """

    async def settle(self, unique_key: str, outcome: Outcome) -> None:
        """End a waiting call early with a definitive ``outcome``; nothing when it is over."""

    async def cancel(self, incoming: IncomingCall) -> bool:
        """
        The caller gave up: end the call of this account and call_id as CANCELLED.

        A call that is placed with them from now on is a new one.

        :return: whether such a call waited, at any member; an answered one stays answered.
        :raises RendezvousDown: it cannot be known now.
        """

    def settle_all(self, outcome: Outcome) -> None:
        """Settle every waiter of this daemon, at once (the end of a drain)."""
