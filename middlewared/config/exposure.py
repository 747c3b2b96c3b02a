"""
Whether strangers may place calls: what listens where, beside whose address is believed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from middlewared.config.listen import arguments, behind_proxy, local
from middlewared.config.values import Config, HttpSettings
from middlewared.networks import LOOPBACK_NETWORKS, UNIX, Network

# Addresses that no router of the Internet forwards (RFC 1918, 6598, 3927, 4193, 4291).
_PRIVATE = (
    *LOOPBACK_NETWORKS,
    *map(
        ipaddress.ip_network,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
            *("169.254.0.0/16", "fc00::/7", "fe80::/10"),
        ),
    ),
)
# A network of so many bits or more is one organisation's own.
_OWN_BITS = {4: 16, 6: 32}
# One of so many bits or more is one segment: a balancer and its neighbours.
_SEGMENT_BITS = {4: 24, 6: 64}


def stranger_warnings(config: Config) -> Iterator[tuple[str, str]]:
    """
    Each way in which a stranger may place calls, as key of ``[http]`` and what, and PROXY
    headers that say nothing.
    """
    http = config.http
    for network in http.trusted_proxies:
        if _is_wider(network, _SEGMENT_BITS):
            yield (
                "trusted_proxies",
                f"{network} is more than proxies: each host there may claim to be a PBX in"
                " X-Forwarded-For; name the proxies alone",
            )
    open_to_others = http.trusted_proxies or not all(map(local, http.pbx_listen or http.listen))
    for network in http.pbx_networks if open_to_others else ():
        if _is_wider(network, _OWN_BITS) and not _is_private(network):
            yield (
                "pbx_networks",
                f"{network} has strangers in it, who may place calls; name the PBXs alone",
            )
    for key, listen in (("listen", http.listen), ("pbx_listen", http.pbx_listen)):
        if any(map(behind_proxy, listen)) and not http.trusted_proxies:
            yield key, "haproxy: needs trusted_proxies, else its PROXY headers are not believed"
    if not http.pbx_listen:
        yield from _shared_with_phones(config)
    yield from _open_sockets(http)


def _shared_with_phones(config: Config) -> Iterator[tuple[str, str]]:
    """Phones and PBXs come in by one door: a proxy must say who is who."""
    http = config.http
    named = [each for each in http.trusted_proxies if not _is_wider(each, _SEGMENT_BITS)]
    for network in http.pbx_networks:
        if any(_overlap(network, proxy) for proxy in named):
            yield (
                "pbx_networks",
                f"{network} has a trusted proxy in it: whomever that forwards without"
                " X-Forwarded-For may place calls; set pbx_listen, or see to it that each"
                " proxy adds the header",
            )
            return
    if _has_local_proxy(config) and any(_is_local_peer(http, each) for each in http.pbx_networks):
        yield (
            "pbx_networks",
            "has this host in it, and phones need a proxy on this host: whomever that"
            " forwards without X-Forwarded-For may place calls; name the proxy in"
            " trusted_proxies, and set pbx_listen or take this host out",
        )


def _has_local_proxy(config: Config) -> bool:
    """Whether phones that are not on this host need a proxy here."""
    phones = urlsplit(config.calls.response_api).hostname or ""
    return (
        bool(config.apps)
        and phones != "localhost"
        and not _is_loopback(phones)
        and all(map(local, config.http.listen))
    )


def _is_local_peer(http: HttpSettings, network: Network) -> bool:
    """Whether ``network`` has the address that a proxy on this host comes from."""
    unix = [arguments(each)[0] == "unix" for each in http.listen]
    if network == UNIX:
        return any(unix)
    return not all(unix) and any(_overlap(network, loopback) for loopback in LOOPBACK_NETWORKS)


def _open_sockets(http: HttpSettings) -> Iterator[tuple[str, str]]:
    for endpoint in http.pbx_listen or http.listen if UNIX in http.pbx_networks else ():
        said = arguments(endpoint)
        if said[0] == "unix" and int(said.get(2, said.get("mode", "660")), 8) & 2:
            key = "pbx_listen" if http.pbx_listen else "listen"
            yield (
                key,
                f"{endpoint} lets every user of this host place calls, since pbx_networks has"
                " unix; set mode=660",
            )


def _is_wider(network: Network, bits: dict[int, int]) -> bool:
    return not isinstance(network, str) and network.prefixlen < bits[network.version]


def _is_private(network: Network) -> bool:
    return any(_holds(private, network) for private in _PRIVATE)


def _holds(outer: Network, inner: Network) -> bool:
    return (
        isinstance(outer, ipaddress.IPv4Network)
        and isinstance(inner, ipaddress.IPv4Network)
        and inner.subnet_of(outer)
    ) or (
        isinstance(outer, ipaddress.IPv6Network)
        and isinstance(inner, ipaddress.IPv6Network)
        and inner.subnet_of(outer)
    )


def _overlap(one: Network, other: Network) -> bool:
    return _holds(one, other) or _holds(other, one) or (one == other == UNIX)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
