"""
Where every outgoing TCP connection begins: straight, or through the CONNECT proxy.

The one invariant: a connect ends within the connect time-out, however the name server,
the proxy or the peer behave, and a connect that was given up leaves nothing open.
"""

from __future__ import annotations

from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from middlewared.outgoing.interface import TcpEndpoints
from middlewared.outgoing.spreading import Spreading
from middlewared.outgoing.tls import ClientTLS
from middlewared.waiting import with_fair_timeout

CONNECT_TIMEOUT_S = 5.0


@implementer(IStreamClientEndpoint)
@attrs.frozen
class DirectEndpoint:
    """
    A TCP connection to ``host``; the name is looked up at each connect, and of several
    addresses another one comes first each time.
    """

    reactor: Any = attrs.field(repr=False)  # Twisted names no type for all it needs here
    host: str
    port: int
    timeout_s: float = CONNECT_TIMEOUT_S

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; the name look-up counts into the time-out."""
        try:
            # No time-out of its own: it would count the time in which we were paused.
            endpoint = HostnameEndpoint(
                Spreading(self.reactor), self.host, self.port, timeout=cast(float, None)
            )
        except ValueError:  # a name that cannot be one (IDNA)
            return fail()
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        connecting.addCallback(_without_delay)
        return with_fair_timeout(connecting, self.timeout_s, self.reactor)


def _without_delay(protocol: IProtocol) -> IProtocol:
    """
    TCP_NODELAY: small writes do not wait for the peer to acknowledge earlier ones.

    Nothing has left yet: what the protocol wrote in connectionMade is sent after this.
    """
    transport: Any = getattr(protocol, "transport", None)
    if ITCPTransport.providedBy(transport):
        transport.setTcpNoDelay(True)
    return protocol


@attrs.frozen
class DirectEndpoints:
    """Straight TCP endpoints (:class:`~middlewared.outgoing.interface.TcpEndpoints`)."""

    reactor: Any = attrs.field(repr=False)
    timeout_s: float = CONNECT_TIMEOUT_S

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint:
        return cast(IStreamClientEndpoint, DirectEndpoint(self.reactor, host, port, self.timeout_s))


@implementer(IAgentEndpointFactory)
class UriEndpoints:
    """Chooses TLS or plain TCP by the scheme; the few hosts come from our configuration."""

    def __init__(self, endpoints: TcpEndpoints, tls: ClientTLS) -> None:
        self._endpoints = endpoints
        self._tls = tls
        self._known: dict[tuple[bytes, bytes, int], IStreamClientEndpoint] = {}

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        key = uri.scheme, uri.host, uri.port
        endpoint = self._known.get(key)
        if endpoint is None:
            endpoint = self._known[key] = self._endpoint(*key)
        return endpoint

    def _endpoint(self, scheme: bytes, encoded_host: bytes, port: int) -> IStreamClientEndpoint:
        host = encoded_host.decode("ascii")
        endpoint = self._endpoints(host, port)
        return wrapClientTLS(self._tls(host), endpoint) if scheme == b"https" else endpoint
