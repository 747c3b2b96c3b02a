"""
The HTTP/1.1 connections of a client, by host.

Idle connections are in the order of their last use. None of them was idle for longer than
the pool's ``rest_s``, and none has a request in progress.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from hyperlink import EncodedURL
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory
from twisted.protocols.policies import ProtocolWrapper, TimeoutMixin, WrappingFactory
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from middlewared.outgoing.interface import TcpEndpoints
from middlewared.outgoing.tls import ClientTLS

Key: TypeAlias = tuple[bytes, bytes, int]
"""A host as Twisted's agent names it: scheme, name and port."""

CLOSING_S = 5.0
"""How long the peer may take to confirm a close, for which TLS waits."""
SHORTEST_PATIENCE_S = 0.7
_MARGIN = 1.5
_DECAY = 1 / 8

# The peer has closed, even if its last bytes were not read (where the system supports it).
_CLOSED_BY_PEER = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


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


@implementer(IHandshakeListener)
class Http1Connection(ProtocolWrapper, TimeoutMixin):
    """
    Stands between TCP or TLS and Twisted's HTTP/1.1 protocol: observes what they exchange, and
    closes in bounded time.

    :ivar established: fires when a request can be sent; cancelling it closes the connection.
    :ivar lost: fires when the connection has ended.
    :ivar heard_at: when the peer last sent a byte, or the connection was established.
    :ivar on_data: the reader of the answer in progress, before it is parsed; None while idle.
    """

    factory: Http1Host
    wrappedProtocol: Any
    transport: Any

    def __init__(self, factory: Http1Host, http: Any) -> None:
        super().__init__(factory, http)
        self.established: Deferred[None] = Deferred(lambda _: self.abortConnection())
        self.lost: Deferred[None] = Deferred()
        self.heard_at = 0.0
        self.on_data: Callable[[bytes], None] | None = None

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)  # type: ignore[no-untyped-call]
        if not ISSLTransport.providedBy(transport):
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        # Also called for a peer whose certificate was refused, with the connection aborted.
        if not self.transport.disconnecting:
            self.heard_at = self.factory.clock.seconds()
            self.established.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.heard_at = self.factory.clock.seconds()
        if self.on_data is not None:
            self.on_data(data)
        if not self.disconnecting:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.connected = False
        self.setTimeout(None)  # type: ignore[no-untyped-call]
        self.factory.forget(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if not self.established.called:
            self.established.errback(reason)
        self.lost.callback(None)

    def loseConnection(self) -> None:
        """Close it; the peer has ``CLOSING_S`` to confirm."""
        if self.connected:
            self.factory.forget(self)
            super().loseConnection()  # type: ignore[no-untyped-call]
            self.setTimeout(CLOSING_S)  # type: ignore[no-untyped-call]

    def abortConnection(self) -> None:
        """Close it at once, without waiting for the peer."""
        if self.connected:
            self.disconnecting = True
            self.factory.forget(self)
            self.transport.abortConnection()

    def timeoutConnection(self) -> None:
        """It was idle for long, or the peer did not confirm the close."""
        if self.disconnecting:
            self.abortConnection()
        else:
            self.loseConnection()

    def callLater(self, period: float, func: Callable[[], object]) -> Any:
        return self.factory.clock.callLater(period, func)

    @property
    def is_ready(self) -> bool:
        """Whether requests can be sent, now or after the one in progress."""
        return self.established.called and not self.disconnecting

    def is_closed_by_peer(self) -> bool:
        """Also if this process has not read it yet."""
        poll = select.poll()
        poll.register(self.transport.fileno(), _CLOSED_BY_PEER)
        return bool(poll.poll(0))


class Http1Host(WrappingFactory[Http1Connection]):
    """
    Makes the connections to one host, and keeps the idle ones.

    :ivar name: for log lines.
    :ivar latency: how long the host takes to answer.
    """

    protocol = Http1Connection
    noisy = False

    def __init__(self, *, clock: Any, uri: URI, endpoint: Any, rest_s: float) -> None:
        factory: Any = ClientFactory.forProtocol(lambda: HTTP11ClientProtocol(self._answered))
        factory.noisy = False
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self.clock = clock
        self.name = f"{uri.host.decode()}:{uri.port}"
        self.endpoint = endpoint
        self.latency = AnswerLatency()
        self._rest_s = rest_s
        self._connecting = 0
        self._idle: list[Http1Connection] = []

    async def open(self) -> Http1Connection:
        """Open a connection for the next request; cancelling leaves none open."""
        self._connecting += 1
        try:
            connection: Http1Connection = await self.endpoint.connect(self)
            began_at = self.clock.seconds()
            await connection.established
        finally:
            self._connecting -= 1
        # A handshake takes one or two round trips, as an answer takes at least one.
        self.latency.answered(self.clock.seconds() - began_at)
        self._keep(connection)
        return connection

    def latest(self) -> Http1Connection | None:
        """The idle connection that was used last, which stays idle; None: there is none."""
        while self._idle:
            connection = self._idle[-1]
            if not connection.is_closed_by_peer():
                return connection
            connection.abortConnection()
        return None

    def take(self) -> Http1Connection:
        """The connection that :meth:`latest` or :meth:`open` has just returned."""
        connection = self._idle.pop()
        connection.setTimeout(None)  # type: ignore[no-untyped-call]
        return connection

    def forget(self, connection: Http1Connection) -> None:
        """It is closing, or was lost: it is not used again."""
        if connection in self._idle:
            self._idle.remove(connection)

    def drop_unheard(self, since: float) -> None:
        """The path may be dead: close the idle connections that have not heard since then."""
        for connection in list(self._idle):
            if connection.heard_at < since:
                connection.abortConnection()

    def heard_at(self) -> float | None:
        """When the host was last heard on a connection that is ready; None: there is none."""
        return max((each.heard_at for each in self.protocols if each.is_ready), default=None)

    def states(self) -> Mapping[str, int]:
        """How many connections there are, by state."""
        return {
            "connecting": self._connecting,
            "ready": sum(each.is_ready for each in self.protocols),
            "draining": sum(bool(each.disconnecting) for each in self.protocols),
        }

    def close(self) -> list[Deferred[None]]:
        """Close all connections; each fires when it has ended."""
        for connection in list(self.protocols):
            connection.abortConnection()
        return [each.lost for each in self.protocols]

    def _keep(self, connection: Http1Connection) -> None:
        connection.on_data = None
        if not connection.disconnecting:
            self._idle.append(connection)
            connection.setTimeout(self._rest_s)  # type: ignore[no-untyped-call]

    def _answered(self, http: HTTP11ClientProtocol) -> None:
        connection: Any = http.transport
        self._keep(connection)


@implementer(IAgentEndpointFactory)
class ConnectionPool:
    """
    The hosts of a client, and the pool of its ``Agent``.

    Twisted's ``HTTPConnectionPool`` cannot do this: it opens no connection in advance, hands
    out the one that was unused for longest, and knows only those that are idle, so that
    those in use can be neither counted nor closed.

    :param rest_s: how long an idle connection is kept.
    """

    persistent = True

    def __init__(
        self, *, clock: Any, endpoints: TcpEndpoints, tls: ClientTLS, rest_s: float
    ) -> None:
        self._clock = clock
        self._endpoints = endpoints
        self._tls = tls
        self._rest_s = rest_s
        self._hosts: dict[Key, Http1Host] = {}  # from the configuration, so there are few

    def host(self, url: str) -> Http1Host:
        """
        The host of ``url``.

        :raises ValueError: it is no URL.
        """
        encoded = EncodedURL.from_text(url).to_uri().to_text()
        return self._host(URI.fromBytes(encoded.encode("ascii")))

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """For the agent, see :class:`twisted.web.iweb.IAgentEndpointFactory`."""
        endpoint: IStreamClientEndpoint = self._host(uri).endpoint
        return endpoint

    def getConnection(self, key: Key, _: object) -> Deferred[HTTP11ClientProtocol]:
        """For the agent: the connection that its caller has just found idle or opened."""
        return succeed(self._hosts[key].take().wrappedProtocol)

    async def close(self) -> None:
        """Close every connection; ends when they are closed."""
        await DeferredList([lost for host in self._hosts.values() for lost in host.close()])

    def _host(self, uri: URI) -> Http1Host:
        key = uri.scheme, uri.host, uri.port
        if key not in self._hosts:
            name = uri.host.decode("ascii")
            endpoint = self._endpoints(name, uri.port)
            if uri.scheme == b"https":
                endpoint = wrapClientTLS(self._tls(name), endpoint)
            self._hosts[key] = Http1Host(
                clock=self._clock, uri=uri, endpoint=endpoint, rest_s=self._rest_s
            )
        return self._hosts[key]
