"""A TCP proxy that can be cut: it then swallows everything, as a partitioned network does."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol


class CuttableProxy:
    """Between its clients and ``node``, a host and a port."""

    def __init__(self, node: tuple[str, int]) -> None:
        self._target = TCP4ClientEndpoint(cast(Any, reactor), *node)
        self._listening: Any = None
        self._ends: set[_End] = set()
        self.is_cut = False

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        endpoint = TCP4ServerEndpoint(cast(Any, reactor), 0, interface="127.0.0.1")
        self._listening = await endpoint.listen(_quiet(lambda: _Accepted(self)))

    @property
    def node(self) -> tuple[str, int]:
        """Where clients connect to."""
        return "127.0.0.1", int(self._listening.getHost().port)

    def cut(self) -> None:
        """Pass nothing on, in neither direction; connections seem to be there."""
        self.is_cut = True

    def mend(self) -> None:
        """Pass on what comes over new connections."""
        self.is_cut = False
        self._abort_all()

    async def stop(self) -> None:
        """Close everything."""
        self._abort_all()
        await maybeDeferred(self._listening.stopListening)

    def _abort_all(self) -> None:
        for end in list(self._ends):
            end.transport.abortConnection()


class _End(Protocol):
    """One end of a connection through the proxy."""

    transport: Any
    other: _End | None = None

    def __init__(self, proxy: CuttableProxy) -> None:
        self.proxy = proxy

    def connectionMade(self) -> None:
        self.proxy._ends.add(self)

    def dataReceived(self, data: bytes) -> None:
        if not self.proxy.is_cut and self.other is not None:
            self.other.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self.proxy._ends.discard(self)
        if self.other is not None and not self.proxy.is_cut:
            self.other.transport.loseConnection()


class _Accepted(_End):
    """The client's end."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.pauseProducing()
        if not self.proxy.is_cut:
            connecting = self.proxy._target.connect(_quiet(lambda: _End(self.proxy)))
            connecting.addCallbacks(self._joined, lambda _: self.transport.abortConnection())

    def _joined(self, other: Any) -> None:
        self.other, other.other = other, self
        self.transport.resumeProducing()


def _quiet(make: Any) -> Any:
    factory: Any = Factory.forProtocol(make)
    factory.noisy = False
    return factory
