"""
The Redis servers as one: a script runs on the node that has its keys now.

A command ends within about a second, with its reply or
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
from middlewared.clock import Clock
from middlewared.errors import RendezvousDown
from middlewared.quoting import quoted
from middlewared.rendezvous.redis.cluster_slots import Node, SlotMap, redirect_from, slot_of
from middlewared.rendezvous.redis.lua_scripts import Script
from middlewared.rendezvous.redis.redis_connection import Login, RedisConnection
from middlewared.rendezvous.redis.subscriptions import FEWEST, MOST, Subscriptions

RETRY_PAUSE_S = 0.05
REFRESH_INTERVAL_S = 1.0
FORGET_TROUBLE_S = 3.0
START_WAIT_S = 1.0
START_PAUSE_S = 0.01
REPEATS_PER_S = 500
REPEATS_AT_ONCE = 1000
MOST_REPEATS = 20
"""
Of one command, so a second in all. A node's patience does not end them where one slot fails and
commands to its other slots succeed.
"""

# How errors begin that pass: the server is starting, failing over or moving slots.
TRANSIENT_ERRORS = (
    "CLUSTERDOWN",
    "TRYAGAIN",
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "MOVED",
    "ASK",
    "Script attempted to access a non local key",
)


class RepeatBudget:
    """
    Bounds the rate of our own repeats, so that they cannot keep an overload alive.

    It allows ``burst`` repeats at once, and from then on ``per_s`` a second.
    """

    def __init__(self, *, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._counted_at = clock.seconds()

    def spend(self) -> bool:
        """Whether one more repeat is allowed now; it is then counted."""
        now = self._clock.seconds()
        earned = (now - self._counted_at) * self._per_s
        self._left = min(self._burst, self._left + max(0.0, earned))
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Nodes:
    """
    The servers, standalone or a Cluster.

    All commands together wait for a node in trouble for
    :data:`~.redis_connection.PATIENCE_S` from its first failure. After that, commands to it
    fail at once until one succeeds. All repeats together have a budget.

    :param endpoints: makes the endpoint for a host and port.
    :param tls: gives the TLS settings for a host; None: plain TCP.
    :param seeds: the server, or some nodes of the Cluster.
    :param channels: those to subscribe to; see :class:`~.subscriptions.Subscriptions`.
    :param received: called with each message, with some of them more than once.
    :param subscribed: called after each SUBSCRIBE: messages may have been lost before it.
    :param troubled: called when a node fails or its connection is lost.
    :ivar troubled_at: when that happened last.
    :ivar connected_at: when a connection was made last, after the start.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Any,  # LoopingCall and deferLater ask for Twisted's zope interface
        endpoints: Callable[[str, int], IStreamClientEndpoint],
        tls: Callable[[str], IOpenSSLClientConnectionCreator] | None,
        seeds: Sequence[Node],
        cluster: bool,
        login: Login,
        channels: Sequence[str],
        received: Callable[[str], None],
        subscribed: Callable[[], None],
        troubled: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._endpoints = endpoints
        self._tls = tls
        self._seeds = tuple(seeds)
        self._cluster = cluster
        self._login = login
        self._slots = SlotMap()
        self._connections: dict[Node, RedisConnection] = {}
        self._subscriptions = Subscriptions(
            slots=self._slots,
            seeds=self._seeds,
            new_connection=lambda name, choose: self._new_connection(
                name,
                lambda: self._endpoint(choose()),
                greeting=[("SUBSCRIBE", channel) for channel in channels],
                received=received,
                came_up=lambda: self._connected(subscribed),
                went_down=self._troubled,
            ),
        )
        self._background = Background()
        self._refreshing = False
        self._refreshes: LoopingCall | None = None
        self._stopped = False
        self._on_trouble = troubled
        self.troubled_at = -math.inf
        self.connected_at = -math.inf
        self._repeats = RepeatBudget(clock=clock, per_s=REPEATS_PER_S, burst=REPEATS_AT_ONCE)

    @property
    def up(self) -> bool:
        """Whether messages arrive, and every node with keys is connected and has not failed."""
        if not self._subscriptions.any_connected:
            return False
        masters = self._slots.masters if self._cluster else set(self._seeds)
        connections = [self._connections[node] for node in masters if node in self._connections]
        if len(connections) < len(masters) or (self._cluster and not self._slots.complete):
            return False
        if not all(each.connected for each in connections):
            return False
        return not any(each.in_trouble for each in connections) or not self.troubled_lately

    @property
    def troubled_lately(self) -> bool:
        """Whether a node failed within the last seconds: records may be missing."""
        lasted: float = self._clock.seconds() - self.troubled_at
        return lasted <= FORGET_TROUBLE_S

    async def start(self) -> None:
        """Connect; returns when all is connected, or after a second when it is not."""
        for node in self._seeds:
            self._connection_to(node)
        if not self._cluster:
            self._subscriptions.open(1)
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
        connections = [*self._subscriptions.release_all(), *self._connections.values()]
        self._connections = {}
        await DeferredList([Deferred.fromCoroutine(each.stop()) for each in connections])
        await self._background.finish()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str]) -> Any:
        """
        Run a script where its keys are; it must do no harm when it runs twice.

        :raises RendezvousDown: no reply; the script may have run.
        """
        slot, asking, redirects, repeats = slot_of(keys[0]), False, 0, 0
        node = self._node_of(slot)
        while True:
            connection = self._connection_to(node)
            try:
                reply = await connection.run(script, keys, args, asking=asking)
            except txredisapi.RedisError as error:
                redirect = redirect_from(str(error), node)
                redirects += 1
                if redirect is not None and redirects <= 5:
                    node, asking = redirect.node, redirect.asking
                    if not asking:
                        self._slots.moved(slot, node)
                    continue
                self._note_failure(connection, error)
                repeats += 1
                if repeats > MOST_REPEATS or not self._repeats.spend():
                    raise RendezvousDown("too many commands fail") from error
                await self._pause()
                node, asking = self._node_of(slot), False
            else:
                connection.note_success()
                return reply

    async def publish(self, channel: str, message: str) -> None:
        """
        Send a message over two nodes, since one may have gone silent; it may arrive twice.

        :raises RendezvousDown: no node takes it.
        """
        connections = [each for each in self._connections.values() if each.connected]
        random.shuffle(connections)
        connections.sort(key=lambda each: each.in_trouble)
        sent = [
            Deferred.fromCoroutine(each.execute("PUBLISH", channel, message))
            for each in connections[:2]
        ]
        taken: Any = []
        if sent:  # an empty DeferredList would never fire
            taken = await DeferredList(sent, fireOnOneCallback=True, consumeErrors=True)
        if isinstance(taken, list):  # all have failed
            raise RendezvousDown("no redis node takes messages")

    def _note_failure(self, connection: RedisConnection, error: Exception) -> None:
        """Note trouble; :raises RendezvousDown: it will not pass, or has lasted too long."""
        first = not connection.in_trouble
        may_recover = connection.note_failure()
        self._troubled()
        if first:
            self.log.warn("redis fails: {error}", error=quoted(str(error), 80))
        lost = isinstance(error, txredisapi.ConnectionError)
        transient = lost or str(error).startswith(TRANSIENT_ERRORS)
        if not (transient and may_recover):
            raise RendezvousDown("redis does not answer") from error

    def _connected(self, also: Callable[[], None] = lambda: None) -> None:
        self.connected_at = self._clock.seconds()
        also()

    def _troubled(self) -> None:
        """A node failed or was lost: masters may have changed."""
        self.troubled_at = self._clock.seconds()
        self._on_trouble()
        self._refresh()

    def _node_of(self, slot: int) -> Node:
        master = self._slots.master_of(slot) if self._cluster else None
        return master or random.choice(self._seeds)  # noqa: S311

    def _connection_to(self, node: Node) -> RedisConnection:
        connection = self._connections.get(node)
        if connection is None:
            if self._stopped:
                raise RendezvousDown("stopped")
            name = f"{node[0]}:{node[1]}"
            connection = self._new_connection(
                name,
                lambda: self._endpoint(node),
                came_up=self._connected,
                went_down=self._troubled,
            )
            self._connections[node] = connection
            connection.start()
        return connection

    def _new_connection(
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
        """Ask for the slots in the background, unless that is already under way."""
        if self._cluster and not self._refreshing and not self._stopped:
            self._refreshing = True
            self._background.run(self._ask_slots())

    async def _ask_slots(self) -> None:
        """Ask nodes, in any order, until one knows the slots."""
        try:
            connected = [each for each in self._connections.items() if each[1].connected]
            for node, connection in random.sample(connected, len(connected)):
                try:
                    reply = await connection.execute("CLUSTER", "SLOTS")
                    self._slots.replace(reply, node)
                except (txredisapi.RedisError, ValueError, TypeError, IndexError):
                    continue
                await self._follow_masters()
                return
        finally:
            self._refreshing = False

    async def _follow_masters(self) -> None:
        """Connect to each master, and disconnect from nodes that have left."""
        if self._stopped:
            return
        masters = self._slots.masters
        for node in masters:
            self._connection_to(node)
        self._subscriptions.open(min(max(len(masters), FEWEST), MOST))
        for node in set(self._connections) - self._slots.masters - set(self._seeds):
            connection = self._connections.pop(node, None)
            if connection is not None:  # a stop meanwhile has taken them all
                await connection.stop()

    async def _pause(self, seconds: float = RETRY_PAUSE_S) -> None:
        await deferLater(self._clock, seconds)
