"""
The rendezvous of several daemons, over Redis or Redis Cluster.

The one invariant: Redis decides how a call ends, with one exception each way:

* An available answer that reaches a daemon where the call waits settles the places
  there at once, before Redis is told. Should another answer have been first elsewhere
  within that millisecond, the places there keep theirs: each place is told once, and
  whoever joins later is told what Redis has. A refusal is in no hurry: Redis first.
* While Redis is away each daemon goes on with its own calls, and puts them into Redis
  when it is back.

Whatever is sent twice does no harm: a place is a member with a name of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.model import Answer, Call, Outcome, Settlement
from middlewared.rendezvous import redis_records as records
from middlewared.rendezvous.cluster import Node
from middlewared.rendezvous.redis_held import Held, HeldCalls, SharedPlace
from middlewared.rendezvous.redis_link import Login
from middlewared.rendezvous.redis_nodes import Nodes
from middlewared.rendezvous.redis_questions import ASK_WAIT_S, Questions
from middlewared.rendezvous.redis_store import SharedCalls

ANSWER_TRAVEL_S = 0.02  # an answer accepted at the very end still reaches its places
ASK_WAIT_IN_TROUBLE_S = 1.0  # while a master is away the daemons are all that knows
CHECK_INTERVAL_S = 1.0
CHECKS_A_ROUND = 1000
CHECKS_AT_ONCE = 32

ANSWERED = "answered"  # did this answer decide a call that waits at your place?
WAKING = "waking"  # do you wake the device of this call?


class RedisRendezvous:
    """
    Calls of all daemons that share one Redis; implements :class:`~.interface.Rendezvous`.

    :param nodes: host and port of the server, or of some nodes of a Cluster.
    :param endpoints: where a TCP connection to a host and port begins.
    :param tls: gives the TLS settings for a host; None: plain TCP.
    :param daemon: names this process among all; the default is random.
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
    ) -> None:
        self._clock = clock
        self._channel = records.channel_of(daemon or secrets.token_hex(8))
        self._members = itertools.count()
        self._joining: Counter[str] = Counter()  # by key: Redis was asked, has not replied
        self._held = HeldCalls(clock=clock, grace_s=ANSWER_TRAVEL_S)
        self._background = Background()
        self._checks = LoopingCall(self._check_oldest)
        self._checks.clock = clock
        self._checking: Deferred[LoopingCall] | None = None
        self._nodes = Nodes(
            clock=clock,
            endpoints=endpoints,
            tls=tls,
            seeds=nodes,
            cluster=cluster,
            login=Login(username, password),
            channels=[self._channel, records.EVERYBODY],
            received=self._received,
            subscribed=lambda: self._background.run(self._check(self._held.all())),
        )
        self._shared = SharedCalls(clock, self._nodes)
        self._questions = Questions(
            clock=clock,
            background=self._background,
            channel=self._channel,
            publish=self._nodes.publish,
            reply=self._reply,
        )

    @property
    def up(self) -> bool:
        """Whether Redis is there, as far as is known; asks nobody."""
        return self._nodes.up

    @property
    def waiting(self) -> int:
        """How many places at this daemon wait."""
        return self._held.waiting

    async def start(self) -> None:
        """Connect; returns within about a second even when Redis is away."""
        await self._nodes.start()
        self._checking = self._checks.start(CHECK_INTERVAL_S, now=False)

    async def stop(self) -> None:
        """Tell DRAINING to whoever still waits, and close all connections."""
        self.abandon(Outcome.DRAINING)
        if self._checking is not None and self._checks.running:
            self._checks.stop()
            await self._checking
        await self._background.finish()
        self.abandon(Outcome.DRAINING)  # whoever was joining
        await self._background.finish()
        await self._nodes.stop()

    def holds(self, call: Call) -> bool:
        """See :meth:`.interface.Rendezvous.holds`."""
        return self._held.repeated(call) is not None

    async def join(self, call: Call) -> SharedPlace:
        """See :meth:`.interface.Rendezvous.join`; never down: it falls back on this daemon."""
        seated: Deferred[SharedPlace] = Deferred()
        self._background.run(self._join_for(seated, records.aimed(call)))
        return await seated

    def recognises(self, unique_key: str) -> bool:
        """See :meth:`.interface.Rendezvous.recognises`."""
        return self._held.find(unique_key) is not None

    async def answer(self, unique_key: str, answer: Answer) -> bool:
        """See :meth:`.interface.Rendezvous.answer`; places here are told before it waits."""
        if not records.is_key(unique_key):
            return False
        outcome = Outcome.ANSWERED if answer.available else Outcome.UNAVAILABLE
        settlement = Settlement(outcome, answer)
        held = self._held.find(unique_key)
        if held is not None and held.waits and answer.available:
            self._held.settle(held, settlement)
        down = None
        try:
            stands = await self._shared.settle(unique_key, settlement)
        except RendezvousDown as error:
            down, stands = error, None
        if stands is not None:
            if held is not None:
                self._held.settle(held, stands)
            return True
        # The call may be one that a daemon opened alone, or whose record a failover lost.
        wait_s = ASK_WAIT_S if down is None else ASK_WAIT_IN_TROUBLE_S
        if await self._answered_somewhere(unique_key, settlement, wait_s):
            return True
        if down is not None:
            raise down
        return False

    async def settle(self, unique_key: str, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.settle`."""
        settlement = Settlement(outcome)
        with contextlib.suppress(RendezvousDown):
            settlement = await self._shared.settle(unique_key, settlement) or settlement
        held = self._held.find(unique_key)
        if held is not None:
            self._held.settle(held, settlement)

    def abandon(self, outcome: Outcome) -> None:
        """See :meth:`.interface.Rendezvous.abandon`; places at other daemons wait on."""
        for held in self._held.all():
            members = [place.member for place in held.places]
            self._held.settle(held, Settlement(outcome))
            for member in members:
                self._background.run(self._leave(held.call.unique_key, member))

    # Joining

    async def _join_for(self, seated: Deferred[SharedPlace], call: Call) -> None:
        """Join to the end, though the PBX may hang up: only then it is known what to leave."""
        member = f"{self._channel}/{next(self._members)}"
        self._joining[call.unique_key] += 1
        try:
            place = await self._join(call, member)
        except RendezvousDown:
            place = self._join_here(call, member)
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

    async def _join(self, call: Call, member: str) -> SharedPlace:
        held = self._held.repeated(call)
        if held is None:
            joined = await self._shared.join(call, member)
            if joined.waker == member:
                return self._open(joined.call, joined.left_s, member)
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
            call = records.with_fresh_key(call)
        return self._open(call, call.deadline - self._clock.seconds(), member)

    def _open(self, call: Call, left_s: float, member: str) -> SharedPlace:
        """The first place of a call, unless it was opened here meanwhile."""
        held = self._held.repeated(call)
        if held is not None:
            return self._seat(held, member)
        earlier = self._held.find(call.unique_key)
        if earlier is not None and not earlier.waits:
            self._held.end(earlier)
        return self._seat(self._held.hold(call, left_s=left_s), member, first=True)

    def _seat(self, held: Held, member: str, *, first: bool = False) -> SharedPlace:
        return self._held.seat(held, member, first=first, left=self._left)

    async def _catch_up(self, place: SharedPlace) -> None:
        """
        What a place that joined must do: hear what was said before it could listen, and
        wake the device when the daemon that was to do it has died.
        """
        try:
            waker = await self._renew(place.held)
            owner = waker.rpartition("/")[0]
            if place.settled.called or owner in ("", self._channel):
                return
            if await self._questions.ask(owner, WAKING, place.call.unique_key):
                return
            joined = await self._shared.join(place.call, place.member, dead=waker)
        except RendezvousDown:
            return
        if joined.waker == place.member and place.held.waits:
            place.first, place.held.waker = True, place.member

    # Leaving

    def _left(self, place: SharedPlace) -> None:
        if self._held.unseat(place):
            held = place.held
            if not held.waits and not held.wakes:
                self._held.end(held)
            self._background.run(self._leave(held.call.unique_key, place.member, held))

    async def _leave(self, unique_key: str, member: str, held: Held | None = None) -> None:
        """Take a member out of Redis; without Redis a call ends with its last place here."""
        ended = True
        with contextlib.suppress(RendezvousDown):
            ended = await self._shared.leave(unique_key, member)
        if ended and held is not None and not held.waits:
            self._held.end(held)

    # Answering without Redis

    async def _answered_somewhere(
        self, unique_key: str, settlement: Settlement, wait_s: float
    ) -> bool:
        """Settle a call that Redis does not know at the daemons where it waits, if any."""
        here = self._answered_here(unique_key, settlement)
        text = records.settlement_text(settlement)
        question = (ANSWERED, unique_key, text)
        there = await self._questions.ask(records.EVERYBODY, *question, wait_s=wait_s)
        return here or there

    def _answered_here(self, unique_key: str, settlement: Settlement) -> bool:
        """The same for this daemon; whether the call is answered now."""
        held = self._held.find(unique_key)
        if held is None:
            return False
        if held.waits:
            self._held.settle(held, settlement)
        return held.answered

    # Checking

    def _check_oldest(self) -> Deferred[None]:
        """Back up a lost message: look again at calls that were not looked at for a second."""
        before = self._clock.seconds() - CHECK_INTERVAL_S
        stale = [held for held in self._held.all() if held.waits and held.checked_at < before]
        stale.sort(key=lambda held: held.checked_at)
        checking = Deferred.fromCoroutine(self._check(stale[:CHECKS_A_ROUND]))
        return checking.addErrback(lambda failure: self.log.failure("check failed", failure))

    async def _check(self, calls: Sequence[Held]) -> None:
        """Look at calls again, some at once; the first failure ends it."""
        pending = iter(calls)

        async def check_next() -> None:
            with contextlib.suppress(RendezvousDown):
                for held in pending:
                    if held.waits:
                        await self._renew(held)

        at_once = min(len(calls), CHECKS_AT_ONCE)
        await gatherResults(
            [Deferred.fromCoroutine(check_next()) for _ in range(at_once)], consumeErrors=True
        )

    async def _renew(self, held: Held) -> str:
        """Make sure that Redis has the call, and hear its settlement; gives the waker."""
        members = [place.member for place in held.places]
        waker = held.waker if held.wakes else ""
        settlement, waker = await self._shared.renew(held.call, members, waker)
        held.checked_at = self._clock.seconds()
        if settlement is not None:
            self._held.settle(held, settlement)
        return waker

    # Messages

    def _received(self, message: str) -> None:
        """Another daemon, or a script, says something; it may be said twice."""
        try:
            kind, *words = json.loads(message)
            match kind:
                case "settled":
                    self._settled(*words)
                case "gone":
                    self._gone(*words)
                case "asked":
                    self._questions.asked(*words)
                case "yes":
                    self._questions.said_yes(*words)
        except (ValueError, TypeError):  # a daemon of another version
            self.log.warn("a message between daemons was not understood")

    def _read(self, text: str) -> Settlement:
        return records.settlement_from(text, received_at=self._clock.seconds())

    def _settled(self, unique_key: str, text: str) -> None:
        held, settlement = self._held.find(unique_key), self._read(text)
        if held is None:
            return
        if settlement.answer is not None:
            self._held.settle(held, settlement)
        else:  # a message that comes late may speak of an earlier try with the same key
            self._background.run(self._check([held]))

    def _gone(self, unique_key: str) -> None:
        """Nobody waits any more; when somebody here does, he came after that was said."""
        held = self._held.find(unique_key)
        if held is not None and not held.waits:
            self._held.end(held)

    def _reply(self, question: str, unique_key: str, text: str = "") -> bool:
        """What another daemon wants to know."""
        if question == ANSWERED:
            return self._answered_here(unique_key, self._read(text))
        if question != WAKING:
            return False
        # Another's question may come before the reply that makes us the call's waker.
        held = self._held.find(unique_key)
        return unique_key in self._joining or (held is not None and held.wakes)
