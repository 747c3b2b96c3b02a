"""
Ports of balancers that speak the PROXY protocol.

A PROXY header names the client that connected to the proxy, and is believed only from
trusted proxies. The client behind any other is unknown: in no network, and never a proxy
itself.
"""

# Most of twisted.protocols has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper, HAProxyWrappingFactory

from middlewared.networks import Network
from middlewared.web.client_address import peer_address, within

UNKNOWN: Final = IPv4Address("TCP", "unknown", 0)


class _Proxied(HAProxyProtocolWrapper):
    factory: Any
    transport: Any

    def getPeer(self) -> Any:
        """Called for each request, since a reload may change which proxies are trusted."""
        own = self.transport.getPeer()
        if not within(peer_address(getattr(own, "host", None)), self.factory.trusted()):
            return UNKNOWN
        peer: Any = super().getPeer()
        # Without an address in the header (a unix socket at the proxy, PROXY UNKNOWN) this
        # is the proxy itself.
        named = isinstance(peer, IPv4Address | IPv6Address) and peer != own
        return peer if named else UNKNOWN


class ProxiedFactory(HAProxyWrappingFactory):
    """
    Serves connections that begin with a PROXY header.

    :param trusted: gives the current networks of trusted proxies.
    """

    protocol: Any = _Proxied

    def __init__(self, *, served: Any, trusted: Callable[[], Sequence[Network]]) -> None:
        super().__init__(served)
        self.trusted = trusted
