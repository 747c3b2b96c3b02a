"""
How a command on this machine reaches the running daemon.

The one invariant: it uses what the configuration says the daemon listens at, or the URL
it was given; it guesses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import attrs
from twisted.internet.endpoints import (
    SSL4ClientEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import CertificateOptions

from middlewared.config import Config
from middlewared.config.listen import arguments
from middlewared.errors import ConfigError, Problem
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.tcp_endpoints import CONNECT_TIMEOUT_S, DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust

_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@attrs.frozen
class DaemonClient:
    """A client of the daemon's PBX face; ``name`` is for messages."""

    client: PooledHttpClient
    base_url: str
    name: str


def way_in(config: Config, *, reactor: Any, url: str | None) -> DaemonClient:
    """
    Where PBXs place their calls.

    :param url: the base URL; None: the first endpoint of the configuration that can be
        connected to from here.
    :raises ConfigError: there is none.
    """
    tls = ClientTLS(trust=load_trust(None))
    if url is not None:
        client = PooledHttpClient(reactor=reactor, endpoints=DirectEndpoints(reactor), tls=tls)
        return DaemonClient(client, url.rstrip("/"), url)
    key = "pbx_listen" if config.http.pbx_listen else "listen"
    description, endpoint = _first(reactor, getattr(config.http, key), key)
    client = PooledHttpClient(reactor=reactor, endpoints=lambda _host, _port: endpoint, tls=tls)
    return DaemonClient(client, "http://localhost", description)


def _first(
    reactor: Any, descriptions: Iterable[str], key: str
) -> tuple[str, IStreamClientEndpoint]:
    for description in descriptions:
        endpoint = client_endpoint(reactor, description)
        if endpoint is not None:
            return description, endpoint
    what = "has no address to connect to; give the URL with --url"
    raise ConfigError([Problem("http", key, what)])


def client_endpoint(reactor: Any, description: str) -> IStreamClientEndpoint | None:
    """
    The other end of a server's endpoint description; None when that is not known: systemd
    passes the sockets, the system chooses the port, or a proxy is to stand before it.
    """
    said = arguments(description)
    made: Any  # the interface of Twisted's endpoints is not known to the type checker
    if said[0] == "unix":
        path = said.get(1, said.get("address", ""))
        made = UNIXClientEndpoint(reactor, path, CONNECT_TIMEOUT_S)
        return cast(IStreamClientEndpoint, made)
    places = {"tcp": 2, "tcp6": 2, "ssl": 5}
    place = places.get(said[0])
    port = int(said.get(1, said.get("port", "0"))) if place is not None else 0
    if place is None or not port:
        return None
    interface = said.get(place, said.get("interface", "::" if said[0] == "tcp6" else ""))
    host = _ANY_ADDRESS.get(interface, interface)
    if said[0] == "ssl":
        # The certificate has the service's name, not the address it listens at here, and
        # nothing that is secret is sent.
        made = SSL4ClientEndpoint(reactor, host, port, CertificateOptions(), CONNECT_TIMEOUT_S)
    else:
        kind: Any = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        made = kind(reactor, host, port, CONNECT_TIMEOUT_S)
    return cast(IStreamClientEndpoint, made)
