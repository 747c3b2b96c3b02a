"""
Simulator, HTTP/2: meets each new connection as its behaviour demands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from middlewared.simulator.http2.frame_steps import Greeting, Http2Behaviour
from middlewared.simulator.listening import ServerTLS

BehaviourT = TypeVar("BehaviourT", bound=Http2Behaviour)


class Greeter(Factory[Protocol], Generic[BehaviourT]):
    """
    Factory of a TLS server.

    :param next_behaviour: gives the behaviour of the connection that has just come.
    :param connect: makes its protocol, above TLS, when it is not to be left alone.
    """

    noisy = False

    def __init__(
        self,
        tls: ServerTLS,
        next_behaviour: Callable[[], BehaviourT],
        connect: Callable[[BehaviourT], Protocol],
    ) -> None:
        self._tls = tls
        self._next_behaviour = next_behaviour
        self._connect = connect

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        behaviour = self._next_behaviour()
        match behaviour.greeting:
            case Greeting.SILENT:
                return Protocol()
            case Greeting.CLOSE:
                return _Leaver(abort=False)
            case Greeting.RESET:
                return _Leaver(abort=True)
        inner = Factory.forProtocol(lambda: self._connect(behaviour))
        factory: TLSMemoryBIOFactory = self._tls.wrap(inner)
        factory.noisy = inner.noisy = False
        return factory.buildProtocol(addr)


class _Leaver(Protocol):
    """Is gone as soon as it came."""

    transport: Any

    def __init__(self, *, abort: bool) -> None:
        self._abort = abort

    def connectionMade(self) -> None:
        if self._abort:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()
