"""
The rendezvous of several daemons, over Redis or Redis Cluster.

Redis decides how a call ends, with two exceptions:

* An available answer that reaches a daemon where the call waits settles the places there at
  once, before Redis is asked. Should another answer have been first elsewhere within that
  millisecond, these places keep theirs, and those who join later get what Redis has.
* While Redis is away for all, each daemon goes on with its own calls, and puts them into
  Redis when it is back. One that alone has lost it refuses new calls.

What is sent twice does no harm: a place is a member with a name of its own, an answer has an id.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.devices.interface import DaemonHeartbeats
from middlewared.errors import RendezvousDown
from middlewared.model import Answer, Call, IncomingCall, LateAnswer, Outcome, Settlement
from middlewared.rendezvous.held import Held, HeldCalls, SharedPlace
from middlewared.rendezvous.late import LateCalls, Woken, ignored
from middlewared.rendezvous.redis import records
from middlewared.rendezvous.redis.cluster_slots import Node
from middlewared.rendezvous.redis.departures import Departure, Departures
from middlewared.rendezvous.redis.keys import Keys
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.peers import AnyPeers, NoPeers, Peers
from middlewared.rendezvous.redis.push_counts import PushCounts
from middlewared.rendezvous.redis.redis_connection import Login
from middlewared.rendezvous.redis.renewals import Renewals
from middlewared.rendezvous.redis.shared_calls import Heard, SharedCalls
from middlewared.rendezvous.redis.unrecorded import UnrecordedCalls

ANSWER_TRAVEL_S = 0.02  # an answer accepted at the very end still reaches its places


class RedisRendezvous:
    """
    Calls of all daemons that share one Redis; implements :class:`~.interface.Rendezvous`.

    :param nodes: host and port of the server, or of some nodes of a Cluster.
    :param endpoints: where a TCP connection to a host and port begins.
    :param tls: gives the TLS settings for a host; None: plain TCP.
    :param daemon: names this process among all; the default is random.
    :param table: where daemons report to each other whether they have Redis; None: there
        are no others to be asked.
    :param late: notified of answers that come here after their call has timed out.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Any,  # Twisted's own users of a clock ask for its zope type
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
        self._peers: AnyPeers = (
            NoPeers()
            if table is None
            else Peers(
                clock=clock,
                daemon=daemon,
                table=table,
                has_redis=self._has_redis,
                waiting=lambda: self.waiting,
            )
        )
        self._members = itertools.count()
        self._joining: Counter[str] = Counter()  # by key: Redis was asked, has not replied
        self._held = HeldCalls(clock=clock, grace_s=ANSWER_TRAVEL_S, timed_out=self._timed_out)
        self._late = LateCalls(clock=clock, late=late)
        self._background = Background()
        self._nodes = Nodes(
            clock=clock,
            endpoints=endpoints,
            tls=tls,
            seeds=nodes,
            cluster=cluster,
            login=Login(username, password),
            channels=[self._channel, records.EVERYBODY],
            received=self._received,
            subscribed=self._subscribed,
            disturbed=lambda: self._peers.hurry(),
        )
        self._keys = Keys()
        self._shared = SharedCalls(clock, self._nodes, self._keys)
        self._renewals = Renewals(
            clock=clock,
            background=self._background,
            held=self._held,
            shared=self._shared,
            nodes=self._nodes,
        )
        self._waking = PushCounts(
            clock=clock, background=self._background, held=self._held, shared=self._shared
        )
        self._departures = Departures(
            clock=clock, background=self._background, leave=self._shared.leave
        )
        self._elsewhere = UnrecordedCalls(
            clock=clock,
            background=self._background,
            channel=self._channel,
            publish=self._nodes.publish,
            held=self._held,
            joining=self._joining,
            recognises=self.recognises,
            nodes=self._nodes,
            peers=self._peers,
        )

    @property
    def up(self) -> bool:
        """Whether Redis is there, as far as is known; asks nobody."""
        return self._nodes.up

    def _has_redis(self) -> bool:
        """Whether other daemons find in Redis whatever is held here."""
        return self._nodes.up and not self._renewals.behind

    @property
    def waiting(self) -> int:
        """How many places at this daemon wait."""
        return self._held.waiting

    async def start(self) -> None:
        """Connect; returns within about a second even when Redis is away."""
        await self._nodes.start()
        await self._renewals.learn_secret()
        self._renewals.start()
        self._peers.start()

    async def stop(self) -> None:
        """Tell DRAINING to whoever still waits, and close all connections."""
        self.abandon(Outcome.DRAINING)
        self._departures.stop()
        await self._renewals.stop()
        await self._background.finish()
        self.abandon(Outcome.DRAINING)  # whoever was joining
        await self._background.finish()
        await self._peers.stop()
        await self._nodes.stop()

    def holds(self, incoming: IncomingCall) -> bool:
        """See :meth:`.interface.Rendezvous.holds`."""
        return self._held.repeated(incoming) is not None

    async def join(self, call: Call) -> SharedPlace:
        """
        See :meth:`.interface.Rendezvous.join`.

        Down when Redis is away here and other daemons have it: they can take the call.
        """
        seated: Deferred[SharedPlace] = Deferred()
        self._background.run(self._join_for(seated, self._keys.aimed(call)))
        return await seated

    async def answer(self, unique_key: str, answer: Answer) -> bool:
        """See :meth:`.interface.Rendezvous.answer`; an available one settles places here first."""
        if not records.is_key(unique_key):
            return False
        settlement, held = Settlement.by(answer), self._held.find(unique_key)
        if held is not None and held.waits and answer.available:
            self._held.settle(held, settlement)
        pushes = held.pushes if held is not None and held.wakes else None
        down = None
        try:
            heard = await self._shared.answer(unique_key, answer, pushes)
        except RendezvousDown as error:
            down, heard = error, Heard()
        if heard.known:
            if held is not None and heard.settlement is not None:
                self._held.settle(held, heard.settlement)
            elif held is not None:
                held.refusals[answer.id] = answer
            if heard.left_to_waker:
                self._waking.left(unique_key)
            return True
        if heard.woken is not None:
            self._late.notify(unique_key, answer, heard.woken, heard.late_s)
            return False
        if await self._elsewhere.answered(held, unique_key, settlement, down=down is not None):
            return True
        if self._late.answered(unique_key, answer):
            return False
        if down is not None:
            raise down
        if held is None and not self._elsewhere.all_are_heard():
            raise RendezvousDown("a daemon that may hold the call cannot be asked")
        return False

    def holds_key(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.holds_key`."""
        return self._held.find(unique_key) is not None

    def recognises(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.recognises`."""
        return self.holds_key(unique_key) or self._keys.recognises(unique_key)

    def surely_unknown(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.surely_unknown`: another daemon may hold any UUID."""
        return not records.is_key(unique_key)

    async def settle(self, unique_key: str, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.settle`."""
        settlement = Settlement(outcome)
        with contextlib.suppress(RendezvousDown):
            settlement = await self._shared.settle(unique_key, outcome) or settlement
        if (held := self._held.find(unique_key)) is not None:
            self._held.settle(held, settlement)

    def abandon(self, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.abandon`; places at other daemons wait on."""
        for held in self._held.all():
            members = [place.member for place in held.places]
            self._held.settle(held, Settlement(outcome))
            for member in members:
                self._depart(held, member)

    # Joining

    async def _join_for(self, seated: Deferred[SharedPlace], call: Call) -> None:
        """Join to the end, though the PBX may hang up: only then it is known what to leave."""
        member = f"{self._channel}/{next(self._members)}"
        self._joining[call.unique_key] += 1
        try:
            place = await self._join_somehow(call, member)
        except Exception:
            seated.errback()
            return
        finally:
            self._joining[call.unique_key] -= 1
            if not self._joining[call.unique_key]:
                del self._joining[call.unique_key]
        if seated.called:
            place.leave()
        else:
            seated.callback(place)

    async def _join_somehow(self, call: Call, member: str) -> SharedPlace:
        try:
            return await self._join(call, member)
        except RendezvousDown:
            if await self._peers.may_go_alone():
                return self._join_here(call, member)
            # Redis may have got the member, and the reply was lost.
            self._departures.add(Departure(call, member, lambda: None))
            raise

    async def _join(self, call: Call, member: str) -> SharedPlace:
        held = self._held.repeated(call.incoming)
        if held is None:
            self._departures.hurry(call)
            joined = await self._shared.join(call, member)
            if joined.waker == member:
                return self._open(joined.call, joined.left_s, member, joined.pushes)
            held = self._held.find(joined.call.unique_key)
            held = held or self._held.hold(joined.call, left_s=joined.left_s)
            if joined.settlement is not None:
                self._held.settle(held, joined.settlement)
        place = self._seat(held, member)
        if held.waits:
            await self._catch_up(place)
        return place

    def _join_here(self, call: Call, member: str) -> SharedPlace:
        """
        Redis is away: the call is joined or opened at this daemon alone, for now.

        A key that is the call_id may be in use at another daemon, by another account that
        rings for the same caller; nobody can tell, so the call gets one of its own.
        """
        if call.unique_key == call.incoming.call_id:
            call = self._keys.with_fresh_key(call)
        self._renewals.opened_alone()
        place = self._open(call, call.deadline - self._clock.seconds(), member)
        if self._nodes.up:  # again, meanwhile: the others already rely on it
            self._renewals.renew_all()
        return place

    def _open(self, call: Call, left_s: float, member: str, pushes: int = 0) -> SharedPlace:
        """The first place of a call, unless it was opened here meanwhile."""
        held = self._held.repeated(call.incoming)
        if held is not None:
            return self._seat(held, member)
        earlier = self._held.find(call.unique_key)
        if earlier is not None and not earlier.waits:
            self._held.end(earlier)
        held = self._held.hold(call, left_s=left_s)
        held.pushes = pushes
        return self._seat(held, member, first=True)

    def _seat(self, held: Held, member: str, *, first: bool = False) -> SharedPlace:
        return self._held.seat(
            held, member, first=first, left=self._left, counted=self._waking.counted
        )

    async def _catch_up(self, place: SharedPlace) -> None:
        """
        What a place that joined must do: hear what was said before it could listen, and
        wake the device when the daemon that was to do it has died.
        """
        try:
            waker = await self._renewals.renew(place.held)
            owner = waker.rpartition("/")[0]
            if place.settled.called or owner in ("", self._channel):
                return
            if await self._elsewhere.is_woken_by(owner, place.call.unique_key):
                return
            joined = await self._shared.join(place.call, place.member, dead=waker)
        except RendezvousDown:
            return
        if joined.waker == place.member and place.held.waits:
            place.take_over(joined.pushes)

    def _timed_out(self, unique_key: str, woken: Woken) -> None:
        self._late.ended(unique_key, woken)
        self._waking.expired(unique_key, woken)

    # Leaving

    def _left(self, place: SharedPlace) -> None:
        if self._held.unseat(place):
            held = place.held
            if not held.waits and not held.wakes:
                self._held.end(held)
            self._depart(held, place.member)

    def _depart(self, held: Held, member: str) -> None:
        """Take a member out of Redis; the call ends here when no one waits for it any more."""
        self._departures.add(Departure(held.call, member, partial(self._departed, held)))

    def _departed(self, held: Held) -> None:
        if not held.waits:
            self._held.end(held)

    def _subscribed(self) -> None:
        self._renewals.renew_all()
        self._background.run(self._renewals.learn_secret())

    def _received(self, message: str) -> None:
        """Another daemon, or a script, says something; it may be said twice."""
        try:
            kind, *words = json.loads(message)
            match kind:
                case "settled":
                    self._settled(*words)
                case "gone":
                    self._gone(*words)
                case "refused":
                    self._waking.refused(*words)
                case "asked":
                    self._elsewhere.questions.asked(*words)
                case "yes":
                    self._elsewhere.questions.said_yes(*words)
        except (ValueError, TypeError):  # a daemon of another version
            self.log.warn("a message between daemons was not understood")

    def _settled(self, unique_key: str, text: str) -> None:
        held = self._held.find(unique_key)
        settlement = records.settlement_from(text, received_at=self._clock.seconds())
        if held is None:
            return
        if settlement.answer is not None:
            self._held.settle(held, settlement)
        else:  # a message that comes late may speak of an earlier try with the same key
            self._renewals.check(held)

    def _gone(self, unique_key: str) -> None:
        """Nobody waits any more; when somebody here does, he came after that was said."""
        held = self._held.find(unique_key)
        if held is not None and not held.waits:
            self._held.end(held)
