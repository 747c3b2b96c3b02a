"""
Where every outgoing TCP connection begins: straight, or through the CONNECT proxy.

The one invariant: a connect ends within the connect time-out, however the name server,
the proxy or the peer behave, and a connect that was given up leaves nothing open.
"""

from __future__ import annotations

from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from middlewared.outgoing.spreading import Spreading

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
            endpoint = HostnameEndpoint(
                Spreading(self.reactor), self.host, self.port, self.timeout_s
            )
        except ValueError:  # a name that cannot be one (IDNA)
            return fail()
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        return connecting.addTimeout(self.timeout_s, self.reactor)


@attrs.frozen
class DirectEndpoints:
    """Straight TCP endpoints (:class:`~middlewared.outgoing.interface.TcpEndpoints`)."""

    reactor: Any = attrs.field(repr=False)
    timeout_s: float = CONNECT_TIMEOUT_S

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint:
        return cast(IStreamClientEndpoint, DirectEndpoint(self.reactor, host, port, self.timeout_s))
