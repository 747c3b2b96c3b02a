"""
The Redis servers as one: a script reaches the node that has its keys, whichever that is now.

The one invariant: a command ends within about a second, with its reply or
:class:`~middlewared.errors.RendezvousDown`; it may have run more than once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import txredisapi
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.quoting import quoted
from middlewared.rendezvous.redis.cluster_slots import Node, SlotMap, redirect_from, slot_of
from middlewared.rendezvous.redis.lua_scripts import Script
from middlewared.rendezvous.redis.redis_connection import Login, RedisConnection
from middlewared.rendezvous.redis.repeat_budget import Budget
from middlewared.rendezvous.redis.subscriptions import FEWEST, MOST, Subscriptions

RETRY_PAUSE_S = 0.05
REFRESH_INTERVAL_S = 1.0
FORGET_TROUBLE_S = 3.0
START_WAIT_S = 1.0
START_PAUSE_S = 0.01
REPEATS_PER_S = 500
REPEATS_AT_ONCE = 1000

# A server that is starting, failing over or moving slots says one of these: it will pass.
PASSING = (
    "CLUSTERDOWN",
    "TRYAGAIN",
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "MOVED",
    "ASK",
    "Script attempted to access a non local key",
)


class Nodes:
    """
    The servers, standalone or a Cluster.

    A node in trouble is waited for :data:`~.redis_connection.PATIENCE_S` from its first failure,
    by all commands together, not by each: then commands to it fail at their first fault
    until one succeeds. All repeats together have a budget.

    :param endpoints: where a TCP connection to a host and port begins.
    :param tls: gives the TLS settings for a host; None: plain TCP.
    :param seeds: the server, or some nodes of the Cluster.
    :param channels: what is listened to; see :class:`~.subscriptions.Subscriptions`.
    :param received: gets each message, some of them more than once.
    :param subscribed: called when a subscription was made (again): messages may be lost.
    :param disturbed: called when a node fails or its connection is lost.
    :ivar troubled_at: when that happened last.
    :ivar connected_at: when a connection was made last, after the start.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Any,  # Twisted's own users of a clock ask for its zope type
        endpoints: Callable[[str, int], IStreamClientEndpoint],
        tls: Callable[[str], IOpenSSLClientConnectionCreator] | None,
        seeds: Sequence[Node],
        cluster: bool,
        login: Login,
        channels: Sequence[str],
        received: Callable[[str], None],
        subscribed: Callable[[], None],
        disturbed: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._endpoints = endpoints
        self._tls = tls
        self._seeds = tuple(seeds)
        self._cluster = cluster
        self._login = login
        self._slots = SlotMap()
        self._links: dict[Node, RedisConnection] = {}
        self._subscriptions = Subscriptions(
            slots=self._slots,
            seeds=self._seeds,
            new_link=lambda name, choose: self._new_link(
                name,
                lambda: self._endpoint(choose()),
                greeting=[("SUBSCRIBE", channel) for channel in channels],
                received=received,
                came_up=lambda: self._connected(subscribed),
                went_down=self._disturbed,
            ),
        )
        self._background = Background()
        self._refreshing = False
        self._refreshes: LoopingCall | None = None
        self._stopped = False
        self._on_disturbed = disturbed
        self.troubled_at = -math.inf
        self.connected_at = -math.inf
        self._repeats = Budget(clock=clock, per_s=REPEATS_PER_S, burst=REPEATS_AT_ONCE)

    @property
    def up(self) -> bool:
        """Whether we hear of answers, and every node with keys is connected and has not failed."""
        if not self._subscriptions.any_connected:
            return False
        masters = self._slots.masters if self._cluster else set(self._seeds)
        links = [self._links[node] for node in masters if node in self._links]
        if len(links) < len(masters) or (self._cluster and not self._slots.complete):
            return False
        if not all(link.connected for link in links):
            return False
        return not any(link.in_trouble for link in links) or not self.troubled_lately

    @property
    def troubled_lately(self) -> bool:
        """Whether a node failed within the last seconds: records may be missing."""
        lasted: float = self._clock.seconds() - self.troubled_at
        return lasted <= FORGET_TROUBLE_S

    async def start(self) -> None:
        """Connect; returns when all is connected, or after a second when it is not."""
        for node in self._seeds:
            self._link(node)
        if not self._cluster:
            self._subscriptions.have(1)
        else:
            self._refreshes = LoopingCall(self._refresh)
            self._refreshes.clock = self._clock
            self._refreshes.start(REFRESH_INTERVAL_S)
        give_up = self._clock.seconds() + START_WAIT_S
        while not self._ready() and self._clock.seconds() < give_up:
            await self._pause(START_PAUSE_S)
            self._refresh()
        if self._ready():  # no call of ours was ever without Redis
            self.connected_at = -math.inf

    async def stop(self) -> None:
        """Close every connection; returns when nothing is open."""
        self._stopped = True
        if self._refreshes is not None and self._refreshes.running:
            self._refreshes.stop()
        links = [*self._subscriptions.take_all(), *self._links.values()]
        self._links = {}
        await DeferredList([Deferred.fromCoroutine(link.stop()) for link in links])
        await self._background.finish()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str]) -> Any:
        """
        Run a script where its keys are. It must not mind to be run twice.

        :raises RendezvousDown: no reply; the script may have run.
        """
        slot, asking, redirects = slot_of(keys[0]), False, 0
        node = self._node_of(slot)
        while True:
            link = self._link(node)
            try:
                reply = await link.run(script, keys, args, asking=asking)
            except txredisapi.RedisError as error:
                redirect = redirect_from(str(error), node)
                redirects += 1
                if redirect is not None and redirects <= 5:
                    node, asking = redirect.node, redirect.asking
                    if not asking:
                        self._slots.moved(slot, node)
                    continue
                self._note(link, error)
                if not self._repeats.spend():
                    raise RendezvousDown("too many commands fail at once") from error
                await self._pause()
                node, asking = self._node_of(slot), False
            else:
                link.works()
                return reply

    async def publish(self, channel: str, message: str) -> None:
        """
        Send a message over two nodes, of which one may have gone silent; it may come twice.

        :raises RendezvousDown: no node takes it.
        """
        links = [link for link in self._links.values() if link.connected]
        random.shuffle(links)
        links.sort(key=lambda link: link.in_trouble)
        sent = [
            Deferred.fromCoroutine(link.execute("PUBLISH", channel, message)) for link in links[:2]
        ]
        taken: Any = []
        if sent:  # Twisted's list would wait for ever for the first of none
            taken = await DeferredList(sent, fireOnOneCallback=True, consumeErrors=True)
        if isinstance(taken, list):  # all have failed
            raise RendezvousDown("no redis node takes messages")

    def _note(self, link: RedisConnection, error: Exception) -> None:
        """Record trouble; gives up when it will not pass or has lasted too long."""
        first = not link.in_trouble
        hopeful = link.fails()
        self._disturbed()
        if first:
            self.log.warn("redis fails: {error}", error=quoted(str(error), 80))
        passing = isinstance(error, txredisapi.ConnectionError) or str(error).startswith(PASSING)
        if not (passing and hopeful):
            raise RendezvousDown("redis does not answer") from error

    def _connected(self, also: Callable[[], None] = lambda: None) -> None:
        self.connected_at = self._clock.seconds()
        also()

    def _disturbed(self) -> None:
        """Something is wrong: masters may have changed."""
        self.troubled_at = self._clock.seconds()
        self._on_disturbed()
        self._refresh()

    def _node_of(self, slot: int) -> Node:
        master = self._slots.master_of(slot) if self._cluster else None
        return master or random.choice(self._seeds)  # noqa: S311

    def _link(self, node: Node) -> RedisConnection:
        link = self._links.get(node)
        if link is None:
            if self._stopped:
                raise RendezvousDown("stopped")
            name = f"{node[0]}:{node[1]}"
            link = self._new_link(
                name,
                lambda: self._endpoint(node),
                came_up=self._connected,
                went_down=self._disturbed,
            )
            self._links[node] = link
            link.start()
        return link

    def _new_link(
        self, name: str, endpoint: Callable[[], IStreamClientEndpoint], **more: Any
    ) -> RedisConnection:
        return RedisConnection(
            name=name, clock=self._clock, endpoint=endpoint, login=self._login, **more
        )

    def _endpoint(self, node: Node) -> IStreamClientEndpoint:
        endpoint = self._endpoints(*node)
        return endpoint if self._tls is None else wrapClientTLS(self._tls(node[0]), endpoint)

    def _ready(self) -> bool:
        return self.up and self._subscriptions.all_connected

    def _refresh(self) -> None:
        """Ask for the slots in the background, unless that is being done."""
        if self._cluster and not self._refreshing and not self._stopped:
            self._refreshing = True
            self._background.run(self._ask_slots())

    async def _ask_slots(self) -> None:
        """Ask nodes, in any order, until one knows the slots."""
        try:
            links = [(node, link) for node, link in self._links.items() if link.connected]
            for node, link in random.sample(links, len(links)):
                try:
                    reply = await link.execute("CLUSTER", "SLOTS")
                    self._slots.replace(reply, node)
                except (txredisapi.RedisError, ValueError, TypeError, IndexError):
                    continue
                await self._keep_links()
                return
        finally:
            self._refreshing = False

    async def _keep_links(self) -> None:
        """A link to each master; none to nodes that have left."""
        if self._stopped:
            return
        masters = self._slots.masters
        for node in masters:
            self._link(node)
        self._subscriptions.have(min(max(len(masters), FEWEST), MOST))
        for node in set(self._links) - self._slots.masters - set(self._seeds):
            link = self._links.pop(node, None)
            if link is not None:  # a stop in between has taken them all
                await link.stop()

    async def _pause(self, seconds: float = RETRY_PAUSE_S) -> None:
        await deferLater(self._clock, seconds)
