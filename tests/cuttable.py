"""A TCP relay with network faults: it cuts, swallows, delays or redirects connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

clock = cast(Any, reactor)


class CuttableProxy:
    """
    Relays between clients and ``node``, a host and a port.

    :param port: the port to listen on; 0: any.
    :ivar delay_s: the delay of bytes, in either direction.
    :ivar opening_s: the time before a new connection relays anything.
    :ivar accepted: how many connections were accepted.
    """

    def __init__(self, node: tuple[str, int], *, port: int = 0) -> None:
        self._target = node
        self._port = port
        self._listening: Any = None
        self._ends: set[_End] = set()
        self._on_the_way: deque[Callable[[], None]] = deque()
        self._arrivals: deque[Any] = deque()
        self._openings: list[Any] = []
        self.is_cut = False
        self.delay_s = 0.0
        self.opening_s = 0.0
        self.accepted = 0

    async def start(self) -> None:
        """Listen on loopback."""
        endpoint = TCP4ServerEndpoint(clock, self._port, interface="127.0.0.1")
        self._listening = await endpoint.listen(_quiet(lambda: _Accepted(self)))

    @property
    def node(self) -> tuple[str, int]:
        """Where clients connect to."""
        return "127.0.0.1", int(self._listening.getHost().port)

    @property
    def connections(self) -> int:
        """How many connections of clients there are."""
        return sum(isinstance(end, _Accepted) for end in self._ends)

    def lead_to(self, node: tuple[str, int]) -> None:
        """Connect new clients to another node."""
        self._target = node

    def cut(self) -> None:
        """Pass nothing on, in neither direction; connections seem to be there."""
        self.is_cut = True

    def forget(self) -> None:
        """
        The same for the current connections only, like a firewall that dropped its state.

        New ones work.
        """
        for end in self._ends:
            end.is_forgotten = True

    def restore(self) -> None:
        """Pass on what comes over new connections."""
        self.is_cut = False
        self.abort_all()

    def abort_all(self) -> None:
        """Reset the current connections."""
        for end in list(self._ends):
            end.transport.abortConnection()

    async def stop(self) -> None:
        """Close everything."""
        self.is_cut = True
        self.abort_all()
        for call in [*self._arrivals, *self._openings]:
            if call.active():
                call.cancel()
        self._arrivals.clear()
        await maybeDeferred(self._listening.stopListening)

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Call ``do`` after ``seconds``, or at once if that is 0."""
        if seconds:
            self._openings.append(clock.callLater(seconds, do))
        else:
            do()

    def later(self, do: Callable[[], None]) -> None:
        """Call ``do`` when bytes sent now would arrive, in order."""
        if self.delay_s or self._on_the_way:
            self._on_the_way.append(do)
            self._arrivals.append(clock.callLater(self.delay_s, self._arrive))
        else:
            do()

    def _arrive(self) -> None:
        self._arrivals.popleft()
        self._on_the_way.popleft()()


class _End(Protocol):
    """One end of a connection through the relay."""

    transport: Any
    other: _End | None = None
    is_forgotten = False

    def __init__(self, proxy: CuttableProxy) -> None:
        self.proxy = proxy

    def connectionMade(self) -> None:
        self.proxy._ends.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self._passes:
            self.proxy.later(lambda: self._pass_on(data))

    def connectionLost(self, reason: object = None) -> None:
        self.proxy._ends.discard(self)
        if self._passes:
            self.proxy.later(self._pass_on_the_end)

    def _pass_on(self, data: bytes) -> None:
        if self._passes and self.other is not None:
            self.other.transport.write(data)

    def _pass_on_the_end(self) -> None:
        if self._passes and self.other is not None:
            self.other.transport.loseConnection()

    @property
    def _passes(self) -> bool:
        return not (self.proxy.is_cut or self.is_forgotten)


class _Accepted(_End):
    """The client's end."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.proxy.accepted += 1
        self.transport.pauseProducing()
        if not self.proxy.is_cut:
            self.proxy.later(self._connect)

    def _connect(self) -> None:
        target = TCP4ClientEndpoint(clock, *self.proxy._target)
        connecting = target.connect(_quiet(lambda: _End(self.proxy)))
        connecting.addCallbacks(self._joined, lambda _: self.transport.abortConnection())

    def _joined(self, other: Any) -> None:
        if self.proxy.is_cut or not self.connected:
            other.transport.abortConnection()
        else:
            self.other, other.other = other, self
            self.proxy.after(self.proxy.opening_s, self.transport.resumeProducing)


def _quiet(make: Any) -> Any:
    factory: Any = Factory.forProtocol(make)
    factory.noisy = False
    return factory
