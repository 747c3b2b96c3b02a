"""
The rendezvous of several daemons, over Redis or Redis Cluster.

Redis decides how a call ends, with three exceptions:

* An available answer that reaches a daemon where the call waits settles the waiters there at
  once, before Redis is asked. If another answer was first elsewhere within that millisecond,
  these waiters keep theirs, and those who join later get what Redis has.
* A daemon that cannot reach Redis at a call's deadline lets its waiters time out.
* While Redis is away for all, each daemon goes on with its own calls and puts them into Redis
  when it is back. A daemon that alone has lost Redis refuses new calls.

What is sent twice changes nothing the second time: waiters and answers have ids.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from middlewared.background import Background
from middlewared.devices.interface import DaemonHeartbeats
from middlewared.errors import RendezvousDown
from middlewared.model import (
    Answer,
    AnswerResult,
    Call,
    IncomingCall,
    LateAnswer,
    Outcome,
    Settlement,
    SipUserId,
)
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls, LocalWaiter
from middlewared.rendezvous.late import LateCalls, WokenDevice, ignored
from middlewared.rendezvous.redis import records
from middlewared.rendezvous.redis.account_lists import AccountLists
from middlewared.rendezvous.redis.answers import Answers
from middlewared.rendezvous.redis.cancellations import Cancellations
from middlewared.rendezvous.redis.cluster_slots import Node
from middlewared.rendezvous.redis.daemon_messages import MessageReceiver
from middlewared.rendezvous.redis.expiries import Expiries
from middlewared.rendezvous.redis.joins_under_way import JoinsUnderWay
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.peer_reports import PeerReports
from middlewared.rendezvous.redis.redis_connection import Login
from middlewared.rendezvous.redis.renewals import Renewals
from middlewared.rendezvous.redis.shared_calls import SharedCalls
from middlewared.rendezvous.redis.signed_keys import SignedKeys
from middlewared.rendezvous.redis.unrecorded_calls import UnrecordedCalls
from middlewared.rendezvous.redis.waiter_removals import WaiterRemoval, WaiterRemovals
from middlewared.rendezvous.redis.waker_reports import WakerReports


class RedisRendezvous:
    """
    Calls of all daemons that share one Redis; implements :class:`~.interface.Rendezvous`.

    :param nodes: host and port of the server, or of some nodes of a Cluster.
    :param endpoints: makes the endpoint for a host and port.
    :param tls: gives the TLS settings for a host; None: plain TCP.
    :param daemon: names this process among all; the default is random.
    :param table: where daemons report to each other whether they have Redis; None: there
        are no others.
    :param late: notified of answers that arrive here after their call has timed out.
    """

    def __init__(
        self,
        *,
        clock: Any,  # LoopingCall and deferLater ask for Twisted's zope interface
        endpoints: Callable[[str, int], IStreamClientEndpoint],
        nodes: Sequence[Node],
        cluster: bool = False,
        username: str = "",
        password: str = "",
        tls: Callable[[str], IOpenSSLClientConnectionCreator] | None = None,
        daemon: str = "",
        table: DaemonHeartbeats | None = None,
        late: Callable[[LateAnswer], None] = ignored,
    ) -> None:
        self._clock = clock
        daemon = daemon or secrets.token_hex(8)
        self._channel = records.channel_of(daemon)
        self._peers = PeerReports(
            clock=clock,
            daemon=daemon,
            table=table,
            has_redis=self._has_redis,
            waiting=lambda: self.waiting,
        )
        self._waiter_numbers = itertools.count()
        self._joins = JoinsUnderWay()
        self._held = HeldCalls(
            clock=clock,
            timed_out=self._timed_out,
            left=self._left,
            pushes_changed=self._pushes_changed,
            expired=lambda held: self._expiries.expired(held),
        )
        self._late = LateCalls(clock=clock, late=late)
        self._background = Background()
        self._nodes = Nodes(
            clock=clock,
            endpoints=endpoints,
            tls=tls,
            seeds=nodes,
            cluster=cluster,
            login=Login(username, password),
            channels=[self._channel, records.ALL_DAEMONS],
            received=lambda message: self._messages.received(message),
            subscribed=self._subscribed,
            troubled=self._peers.redis_troubled,
        )
        self._keys = SignedKeys()
        self._shared = SharedCalls(clock, self._nodes, self._keys)
        self._renewals = Renewals(
            clock=clock,
            background=self._background,
            held=self._held,
            shared=self._shared,
            nodes=self._nodes,
            renewed=lambda held: self._account_lists.renewed(held),
            left=self._remove_from_redis,
        )
        self._account_lists = AccountLists(
            clock=clock, background=self._background, shared=self._shared, nodes=self._nodes
        )
        self._waker_reports = WakerReports(
            clock=clock, background=self._background, held=self._held, shared=self._shared
        )
        self._expiries = Expiries(
            clock=clock, background=self._background, held=self._held, shared=self._shared
        )
        self._removals = WaiterRemovals(
            clock=clock, background=self._background, remove=self._shared.leave
        )
        self._unrecorded = UnrecordedCalls(
            clock=clock,
            background=self._background,
            channel=self._channel,
            held=self._held,
            joins=self._joins,
            knows_key=self.knows_key,
            nodes=self._nodes,
            peers=self._peers,
            cancel_here=lambda incoming: self._cancellations.cancel_here(incoming),
        )
        self._answers = Answers(
            held=self._held,
            late=self._late,
            shared=self._shared,
            unrecorded=self._unrecorded,
            waker_reports=self._waker_reports,
        )
        self._cancellations = Cancellations(
            held=self._held,
            shared=self._shared,
            joins=self._joins,
            unrecorded=self._unrecorded,
            remove=self._remove_from_redis,
        )
        self._messages = MessageReceiver(
            clock=clock,
            held=self._held,
            renewals=self._renewals,
            waker_reports=self._waker_reports,
            cancellations=self._cancellations,
            queries=self._unrecorded.queries,
        )

    @property
    def up(self) -> bool:
        """See :meth:`.interface.Rendezvous.up`."""
        return self._nodes.up

    def _has_redis(self) -> bool:
        """Whether other daemons find in Redis every call that is held here."""
        return self._nodes.up and not self._renewals.behind

    @property
    def waiting(self) -> int:
        """How many waiters at this daemon wait."""
        return self._held.waiting

    async def start(self) -> None:
        """See :meth:`.interface.Rendezvous.start`; takes about a second when Redis is away."""
        await self._nodes.start()
        await self._renewals.share_secret()
        self._renewals.start()
        self._peers.start()

    async def stop(self) -> None:
        """See :meth:`.interface.Rendezvous.stop`."""
        self.settle_all(Outcome.DRAINING)
        self._removals.stop()
        await self._renewals.stop()
        await self._background.finish()
        self.settle_all(Outcome.DRAINING)  # those that were joining
        await self._background.finish()
        await self._peers.stop()
        await self._nodes.stop()

    def holds(self, incoming: IncomingCall) -> bool:
        """See :meth:`.interface.Rendezvous.holds`."""
        return self._held.find_repeated(incoming) is not None

    def holds_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.holds_key`."""
        return self._held.find(unique_key) is not None

    def knows_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.knows_key`."""
        return self.holds_key(unique_key) or self._keys.is_signed(unique_key)

    def rules_out_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.rules_out_key`: another daemon may hold any UUID."""
        return not records.is_key(unique_key)

    async def join(self, call: Call) -> LocalWaiter:
        """
        See :meth:`.interface.Rendezvous.join`.

        Down when Redis is away here and other daemons have it: they can take the call.
        """
        joined: Deferred[LocalWaiter] = Deferred()
        self._background.run(self._join_for(joined, self._keys.with_suitable_key(call)))
        return await joined

    async def answer(self, unique_key: str, answer: Answer) -> AnswerResult:
        """See :meth:`.interface.Rendezvous.answer`; an available one settles waiters here first."""
        return await self._answers.answer(unique_key, answer)

    async def answer_account(self, sip_user_id: SipUserId, call_id: str, answer: Answer) -> int:
        """See :meth:`.interface.Rendezvous.answer_account`."""
        return await self._answers.answer_account(sip_user_id, call_id, answer)

    async def settle(self, unique_key: str, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.settle`."""
        settlement = Settlement(outcome)
        with contextlib.suppress(RendezvousDown):
            settlement = await self._shared.settle(unique_key, outcome) or settlement
        if (held := self._held.find(unique_key)) is not None:
            self._held.settle(held, settlement)

    async def cancel(self, incoming: IncomingCall) -> bool:
        """See :meth:`.interface.Rendezvous.cancel`."""
        return await self._cancellations.cancel(incoming)

    def settle_all(self, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.settle_all`; waiters of other daemons wait on."""
        for held in self._held.all():
            waiter_ids = [waiter.id for waiter in held.waiters]
            self._held.settle(held, Settlement(outcome))
            for waiter_id in waiter_ids:
                self._remove_from_redis(held, waiter_id)

    # Joining

    async def _join_for(self, joined: Deferred[LocalWaiter], call: Call) -> None:
        """Join to the end even when the PBX hangs up: until then it is not known what to leave."""
        waiter_id = f"{self._channel}/{next(self._waiter_numbers)}"
        under_way = self._joins.begin(call, waiter_id)
        try:
            waiter = await self._join_or_open_alone(call, waiter_id)
            while self._cancellations.must_repeat(under_way, waiter):
                waiter = await self._join_or_open_alone(call, waiter_id)
        except Exception:
            joined.errback()
            return
        finally:
            self._joins.end(under_way)
        if joined.called:
            waiter.leave()
        else:
            joined.callback(waiter)

    async def _join_or_open_alone(self, call: Call, waiter_id: str) -> LocalWaiter:
        try:
            return await self._join(call, waiter_id)
        except RendezvousDown:
            alone = await self._peers.may_work_alone()
            waiter = self._open_alone(call, waiter_id) if alone else None
            if waiter is None or waiter.call.unique_key != call.unique_key:
                # Redis may have added the waiter, and the reply was lost.
                self._removals.add(WaiterRemoval(call, waiter_id, lambda: None))
            if waiter is None:
                raise
            return waiter

    async def _join(self, call: Call, waiter_id: str) -> LocalWaiter:
        held = self._held.find_repeated(call.incoming)
        if held is None:
            await self._removals.finish(call)
            joined = await self._shared.join(call, waiter_id)
            if joined.waker == waiter_id:
                return self._open(joined.call, joined.left_s, waiter_id, joined.pushes)
            held = self._held.find(joined.call.unique_key)
            held = held or self._held.add(joined.call, left_s=joined.left_s)
            if joined.settlement is not None:
                self._held.settle(held, joined.settlement)
        waiter = self._held.add_waiter(held, waiter_id)
        if held.waiters:
            await self._catch_up(waiter)
        return waiter

    def _open_alone(self, call: Call, waiter_id: str) -> LocalWaiter:
        """
        Open or join the call at this daemon alone, while Redis is away.

        A key that is the call_id may be in use at another daemon, by another account that
        rings for the same caller. No one can find out, so the call gets a fresh key.
        """
        if call.unique_key == call.incoming.call_id:
            call = self._keys.with_fresh_key(call)
        self._renewals.opened_without_redis()
        waiter = self._open(call, call.deadline - self._clock.seconds(), waiter_id)
        if self._nodes.up:  # it has come back meanwhile: the others already rely on it
            self._renewals.renew_all()
        return waiter

    def _open(self, call: Call, left_s: float, waiter_id: str, pushes: int = 0) -> LocalWaiter:
        """The first waiter of a call, unless it was opened here meanwhile."""
        held = self._held.find_repeated(call.incoming)
        if held is not None:
            return self._held.add_waiter(held, waiter_id)
        earlier = self._held.find(call.unique_key)
        if earlier is not None and not earlier.waiters:
            self._held.end(earlier)
        held = self._held.add(call, left_s=left_s)
        held.pushes = pushes
        return self._held.add_waiter(held, waiter_id, first=True)

    async def _catch_up(self, waiter: LocalWaiter) -> None:
        """
        Fetch what was decided before a waiter that joined was subscribed to it, and wake the
        device if the daemon that should has died.
        """
        try:
            waker = await self._renewals.renew(waiter.held)
            its_channel = waker.rpartition("/")[0]
            if waiter.settled.called or its_channel in ("", self._channel):
                return
            if await self._unrecorded.is_woken_by(its_channel, waiter.call.unique_key):
                return
            joined = await self._shared.join(waiter.call, waiter.id, dead=waker)
        except RendezvousDown:
            return
        if joined.waker == waiter.id and waiter.held.waiters:
            waiter.take_over(joined.pushes)

    def _pushes_changed(self, held: HeldCall) -> None:
        self._account_lists.pushes_changed(held)
        self._waker_reports.pushes_changed(held)

    def _timed_out(self, held: HeldCall, woken: WokenDevice) -> None:
        self._late.add(held.call.unique_key, woken)
        self._expiries.timed_out(held, woken)

    # Leaving

    def _left(self, waiter: LocalWaiter) -> None:
        held = waiter.held
        if not held.waiters and not held.is_woken_here:
            self._held.end(held)
        self._remove_from_redis(held, waiter.id)

    def _remove_from_redis(self, held: HeldCall, waiter_id: str) -> None:
        """Remove a waiter; the call ends here when no one waits for it at any daemon."""
        ended = partial(self._held.end_unless_waiting, held)
        self._removals.add(WaiterRemoval(held.call, waiter_id, ended))

    def _subscribed(self) -> None:
        self._renewals.renew_all()
        self._background.run(self._renewals.share_secret())
