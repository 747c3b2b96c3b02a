"""
Idle connections kept for later requests, by host.

The one invariant: a connection that is handed out was idle for less than ``REST_S``, and
of several it is the one with the latest sign of life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from middlewared.clock import DelayedCall
from middlewared.outgoing.http1_connection import Http1Connection
from middlewared.outgoing.pace import Pace

T = TypeVar("T")
Host: TypeAlias = Hashable
"""Twisted's key: scheme, host and port."""

REST_S = 60.0
"""
NAT gateways and load balancers drop idle connections, some silently: Azure's after 240 s,
AWS's after 350 s.
"""


class ConnectionPool:
    """
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
        self._paces: dict[Host, Pace] = {}
        self._watching: dict[Host, Callable[[float], None]] = {}
        self._emptied: Deferred[None] | None = None

    def watch(self, host: Host, lost: Callable[[float], None]) -> None:
        """Call ``lost`` when a connection to ``host`` has ended, with how long it was usable."""
        self._watching[host] = lost

    def take(self, host: Host) -> Http1Connection | None:
        """The idle connection with the latest sign of life; None: there is none."""
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
        connecting: Deferred[Any] = cast(Any, endpoint).connect(
            _Connections(lambda: self._new(host))
        )
        connecting.addCallback(Http1Connection.when_established).addBoth(ended)
        return connecting.addCallback(self._measured)

    def keep(self, connection: Http1Connection) -> None:
        """``connection`` is idle: keep it for the next request."""
        connection.watcher = None
        idle = self._idle.setdefault(connection.host, {})
        if len(idle) >= self._most:
            self._drop(next(iter(idle)))
        idle[connection] = self._reactor.callLater(self._rest_s, self._drop, connection)

    def doubt(self, host: Host, since: float) -> None:
        """The path may be dead: drop idle connections without a sign of life ``since`` then."""
        for connection in list(self._idle.get(host, ())):
            if connection.heard_at < since:
                self._forget(connection)
                connection.abandon()

    def pace(self, host: Host) -> Pace:
        """How fast ``host`` answers."""
        return self._paces.setdefault(host, Pace())

    def heard_at(self, host: Host) -> float | None:
        """The latest sign of life on a usable connection; None: there is none."""
        return max((each.heard_at for each in self._ready(host)), default=None)

    def states(self, host: Host) -> Mapping[str, int]:
        """How many connections there are, by state."""
        leaving = [each for each in self._open if each.host == host and each.leaving]
        return {
            "connecting": self._connecting[host],
            "ready": len(self._ready(host)),
            "draining": len(leaving),
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
        """See :class:`.http1_connection.Owner`."""
        self._open.add(connection)

    def lost(self, connection: Http1Connection) -> None:
        """See :class:`.http1_connection.Owner`."""
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
        """Take the distance of the host from the duration of the handshake."""
        if connection.handshake_s > 0:
            self.pace(connection.host).answered(connection.handshake_s)
        return connection

    def _ready(self, host: Host) -> list[Http1Connection]:
        return [
            each
            for each in self._open
            if each.host == host and each.is_established and not each.leaving
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
        connection.leave()

    def _forget(self, connection: Http1Connection) -> None:
        timer = self._idle[connection.host].pop(connection)
        if timer.active():
            timer.cancel()


class _Connections(Factory):
    noisy = False

    def __init__(self, new: Callable[[], Http1Connection]) -> None:
        self._new = new

    def buildProtocol(self, addr: IAddress | None) -> Http1Connection:  # noqa: ARG002
        return self._new()
