"""
Endpoints of outgoing TCP connections.

A connect ends within its time-out, however the name server or the peer behave, and a
cancelled connect leaves nothing open.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NoReturn, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectingCancelledError, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.waiting import with_fair_timeout

CONNECT_TIMEOUT_S = 5.0


@implementer(IStreamClientEndpoint)
@attrs.frozen
class DirectEndpoint:
    """
    A TCP connection to ``host``.

    The name is looked up at each connect; of several addresses, a random one is tried first.
    """

    reactor: Any = attrs.field(repr=False)  # Twisted has no type for all it needs here
    host: str
    port: int
    timeout_s: float = CONNECT_TIMEOUT_S

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; the time-out includes the look-up of the name."""
        try:
            # No time-out of its own: it would count pauses of this process.
            endpoint = HostnameEndpoint(
                ShufflingReactor(self.reactor), self.host, self.port, timeout=cast(float, None)
            )
        except ValueError:  # an invalid name (IDNA)
            return fail()
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        connecting.addCallbacks(_without_delay, _cancelled)
        return with_fair_timeout(connecting, self.timeout_s, self.reactor, _timed_out)


def _without_delay(protocol: IProtocol) -> IProtocol:
    """
    TCP_NODELAY: small writes do not wait for the peer to acknowledge earlier ones.

    Nothing has left yet: what the protocol wrote in connectionMade is sent after this.
    """
    transport: Any = getattr(protocol, "transport", None)
    if ITCPTransport.providedBy(transport):
        transport.setTcpNoDelay(True)
    return protocol


def _cancelled(failure: Failure) -> NoReturn:
    """A cancelled connect fails as other cancelled work does."""
    if failure.check(ConnectingCancelledError):
        raise CancelledError from failure.value
    failure.raiseException()


def _timed_out() -> NoReturn:
    raise TimeoutError  # Twisted's own, as of its endpoints


@attrs.frozen
class DirectEndpoints:
    """Direct TCP endpoints (:class:`~middlewared.outgoing.interface.TcpEndpoints`)."""

    reactor: Any = attrs.field(repr=False)
    timeout_s: float = CONNECT_TIMEOUT_S

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint:
        return cast(IStreamClientEndpoint, DirectEndpoint(self.reactor, host, port, self.timeout_s))


@implementer(IReactorPluggableNameResolver, IHostnameResolver)
class ShufflingReactor:
    """A reactor whose name look-ups give addresses in a different order each time."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def resolveHostName(
        self, resolutionReceiver: Any, hostName: str, *args: object, **kwargs: object
    ) -> IHostResolution:
        resolver, shuffling = self._reactor.nameResolver, _Shuffling(resolutionReceiver)
        resolution: IHostResolution = resolver.resolveHostName(shuffling, hostName, *args, **kwargs)
        return resolution


@implementer(IResolutionReceiver)
class _Shuffling:
    """Holds the addresses back until all are known."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        self._addresses: list[IAddress] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        self._addresses.append(address)

    def resolutionComplete(self) -> None:
        for address in shuffled(self._addresses):
            self._receiver.addressResolved(address)
        self._receiver.resolutionComplete()


def shuffled(addresses: Sequence[IAddress]) -> list[IAddress]:
    """
    ``addresses`` in random order, but alternating between families and starting with the
    resolver's preferred one, so that a family without connectivity costs no more than one
    attempt (RFC 8305, section 4).
    """
    families: dict[type[IAddress], list[IAddress]] = {}
    for address in addresses:
        families.setdefault(type(address), []).append(address)
    orders = [random.sample(each, len(each)) for each in families.values()]
    turns = zip_longest(*orders)
    return [address for turn in turns for address in turn if address is not None]
