"""
HTTP/1.1 connections kept for later requests, by host.

A connection that is handed out was idle for less than ``REST_S``; of several it is the one
that was used last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from middlewared.clock import DelayedCall
from middlewared.outgoing.http1_connection import Http1Connection

T = TypeVar("T")
Host: TypeAlias = Hashable
"""Twisted's key of a host: scheme, name and port."""

REST_S = 60.0
"""
How long an idle connection is kept. NAT gateways and load balancers drop idle ones, some
silently: Azure's after 240 s, AWS's after 350 s.
"""
SHORTEST_PATIENCE_S = 0.7
_MARGIN = 1.5
_DECAY = 1 / 8


class AnswerLatency:
    """
    How long a host takes to answer. Adapts to slower answers at once, to faster ones gradually.

    So a host that has become slow, or is far away, is not repeatedly taken for a dead path.
    """

    def __init__(self) -> None:
        self._slow_s = 0.0

    def answered(self, after_s: float) -> None:
        """The first byte of an answer came ``after_s`` after its request was sent."""
        slow_s = self._slow_s
        self._slow_s = max(after_s, slow_s + (after_s - slow_s) * _DECAY)

    def patience_s(self) -> float:
        """How long to wait for a first byte before the path is in doubt."""
        return max(SHORTEST_PATIENCE_S, self._slow_s * _MARGIN)


class ConnectionPool:
    """
    Connections, open and idle; implements :class:`~.http1_connection.Owner`.

    :param most: how many idle connections are kept for each host.
    :param max_body_bytes: the longest answer body accepted.
    """

    def __init__(
        self, *, reactor: Any, most: int, max_body_bytes: int, rest_s: float = REST_S
    ) -> None:
        self._reactor = reactor
        self._most = most
        self._max_body_bytes = max_body_bytes
        self._rest_s = rest_s
        self._open: set[Http1Connection] = set()
        self._idle: dict[Host, dict[Http1Connection, DelayedCall]] = {}
        self._connecting: Counter[Host] = Counter()
        self._latencies: dict[Host, AnswerLatency] = {}
        self._watching: dict[Host, Callable[[float], None]] = {}
        self._emptied: Deferred[None] | None = None

    def watch(self, host: Host, lost: Callable[[float], None]) -> None:
        """Call ``lost`` when a connection to ``host`` has ended, with how long it was usable."""
        self._watching[host] = lost

    def take(self, host: Host) -> Http1Connection | None:
        """The idle connection that was used last; None: there is none."""
        idle = self._idle.get(host)
        while idle:
            connection, timer = idle.popitem()
            timer.cancel()
            if connection.is_usable():
                return connection
            connection.abandon()
        return None

    def connect(self, host: Host, endpoint: IStreamClientEndpoint) -> Deferred[Http1Connection]:
        """Fires with a new connection that can send a request; cancelling leaves none open."""

        def ended(result: T) -> T:
            self._connecting[host] -= 1
            return result

        self._connecting[host] += 1
        factory: Any = Factory.forProtocol(lambda: self._new(host))
        factory.noisy = False
        connecting: Deferred[Any] = cast(Any, endpoint).connect(factory)
        connecting.addCallback(Http1Connection.when_established).addBoth(ended)
        return connecting.addCallback(self._measured)

    def keep(self, connection: Http1Connection) -> None:
        connection.watcher = None
        idle = self._idle.setdefault(connection.host, {})
        if len(idle) >= self._most:
            self._drop(next(iter(idle)))
        idle[connection] = self._reactor.callLater(self._rest_s, self._drop, connection)

    def drop_unheard(self, host: Host, since: float) -> None:
        """The path may be dead: drop the idle connections that have not heard ``since`` then."""
        for connection in list(self._idle.get(host, ())):
            if connection.heard_at < since:
                self._forget(connection)
                connection.abandon()

    def latency(self, host: Host) -> AnswerLatency:
        """How long ``host`` takes to answer."""
        return self._latencies.setdefault(host, AnswerLatency())

    def heard_at(self, host: Host) -> float | None:
        """When ``host`` was last heard on a usable connection; None: there is none."""
        return max((each.heard_at for each in self._ready(host)), default=None)

    def states(self, host: Host) -> Mapping[str, int]:
        """How many connections there are, by state."""
        closing = [each for each in self._open if each.host == host and each.closing]
        return {
            "connecting": self._connecting[host],
            "ready": len(self._ready(host)),
            "draining": len(closing),
        }

    async def close(self) -> None:
        """Close every connection; ends when they are closed."""
        self._watching.clear()
        for idle in self._idle.values():
            for connection in list(idle):
                self._forget(connection)
        if self._open:
            emptied: Deferred[None] = Deferred()
            self._emptied = emptied
            for connection in list(self._open):
                connection.abandon()
            await emptied

    def opened(self, connection: Http1Connection) -> None:
        self._open.add(connection)

    def lost(self, connection: Http1Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle.get(connection.host, ()):
            self._forget(connection)
        watching = self._watching.get(connection.host)
        if watching is not None and connection.is_established:
            watching(self._reactor.seconds() - connection.opened_at)
        if self._emptied is not None and not self._open:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def _measured(self, connection: Http1Connection) -> Http1Connection:
        """Let the duration of the handshake count as that of an answer."""
        if connection.handshake_s > 0:
            self.latency(connection.host).answered(connection.handshake_s)
        return connection

    def _ready(self, host: Host) -> list[Http1Connection]:
        return [
            each
            for each in self._open
            if each.host == host and each.is_established and not each.closing
        ]

    def _new(self, host: Host) -> Http1Connection:
        return Http1Connection(
            clock=self._reactor,
            owner=self,
            host=host,
            secure=isinstance(host, tuple) and host[0] == b"https",
            max_body_bytes=self._max_body_bytes,
        )

    def _drop(self, connection: Http1Connection) -> None:
        self._forget(connection)
        connection.close()

    def _forget(self, connection: Http1Connection) -> None:
        timer = self._idle[connection.host].pop(connection)
        if timer.active():
            timer.cancel()
