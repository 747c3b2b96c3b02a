"""
The client with which a command on this machine reaches the running daemon.

It connects to an address at which the daemon listens by its configuration, or to a given URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

from middlewared.basic_auth import encode_basic
from middlewared.config import Config
from middlewared.config.endpoint_descriptions import INTERFACE_POSITION, arguments
from middlewared.errors import ConfigError, Problem
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.tcp_endpoints import CONNECT_TIMEOUT_S, DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust

_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@attrs.frozen
class DaemonClient:
    """
    An HTTP client for where PBXs place their calls; ``name`` is for messages.

    ``headers``: the credentials of a PBX, if one has a password.
    """

    http: PooledHttpClient
    base_url: str
    name: str
    headers: Mapping[str, str | bytes] = attrs.field(factory=dict, repr=False)


def make_daemon_client(config: Config, *, reactor: Any, url: str | None) -> DaemonClient:
    """
    A client for the daemon of ``config``.

    :param url: the base URL; None: the first endpoint of the configuration to which this host
        can connect.
    :raises ConfigError: there is none.
    """
    tls = ClientTLS(trust=load_trust(None))
    if url is not None:
        http = PooledHttpClient(reactor=reactor, endpoints=DirectEndpoints(reactor), tls=tls)
        return DaemonClient(http, url.rstrip("/"), url, _credentials(config))
    key = "pbx_listen" if config.http.pbx_listen else "listen"
    description, endpoint = _first(reactor, getattr(config.http, key), key)
    http = PooledHttpClient(reactor=reactor, endpoints=lambda _host, _port: endpoint, tls=tls)
    return DaemonClient(http, "http://localhost", description, _credentials(config))


def _credentials(config: Config) -> Mapping[str, str | bytes]:
    """Those of the PBX that may call from anywhere, if there is one, or else of any."""
    secured = [pbx for pbx in config.pbxs if pbx.password]
    secured.sort(key=lambda pbx: bool(pbx.networks))
    if not secured:
        return {}
    return {"Authorization": encode_basic(secured[0].name, secured[0].password)}


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
    A client endpoint for a server's endpoint description.

    None when the address is unknown: systemd passes the socket, the system chooses the port, or
    the daemon expects a proxy that adds a PROXY header.
    """
    given = arguments(description)
    made: Any  # the interface of Twisted's endpoints is not known to the type checker
    if given[0] == "unix":
        path = given.get(1, given.get("address", ""))
        made = UNIXClientEndpoint(reactor, path, CONNECT_TIMEOUT_S)
        return cast(IStreamClientEndpoint, made)
    position = INTERFACE_POSITION.get(given[0])
    port = int(given.get(1, given.get("port", "0"))) if position is not None else 0
    if position is None or not port:
        return None
    interface = given.get(position, given.get("interface", "::" if given[0] == "tcp6" else ""))
    host = _ANY_ADDRESS.get(interface, interface)
    if given[0] == "ssl":
        # The certificate is for the service's name, not for this address, and no secret is sent.
        made = SSL4ClientEndpoint(reactor, host, port, CertificateOptions(), CONNECT_TIMEOUT_S)
    else:
        kind: Any = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        made = kind(reactor, host, port, CONNECT_TIMEOUT_S)
    return cast(IStreamClientEndpoint, made)
