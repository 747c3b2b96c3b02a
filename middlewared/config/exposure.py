"""
Warnings about security: strangers who may place calls, and passwords sent in clear text.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from urllib.parse import urlsplit

from psycopg2.extensions import parse_dsn

from middlewared.config.endpoint_descriptions import arguments, behind_proxy, is_local
from middlewared.config.values import Config, HttpSettings
from middlewared.errors import Problem
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
# A network with a prefix of at least this length belongs to one organisation.
_OWN_BITS = {4: 16, 6: 32}
# One of at least this length is one segment: a load balancer and its neighbours.
_SEGMENT_BITS = {4: 24, 6: 64}
# In libpq's other modes, among them prefer (its default), a connection may go without TLS.
_CERTAIN_TLS = {"require", "verify-ca", "verify-full"}


def stranger_warnings(config: Config) -> Iterator[Problem]:
    """Each way in which a stranger may place calls, and PROXY headers that have no effect."""
    http = config.http
    for network in http.trusted_proxies:
        if _is_wider(network, _SEGMENT_BITS):
            what = (
                f"{network} is larger than a group of proxies: any host in it can claim to be a"
                " PBX in X-Forwarded-For; name only the proxies"
            )
            yield Problem("http", "trusted_proxies", what)
    open_to_others = http.trusted_proxies or not all(map(is_local, http.pbx_listen or http.listen))
    for section, key, network in _pbx_networks(config) if open_to_others else ():
        if _is_wider(network, _OWN_BITS) and not _is_private(network):
            what = f"{network} includes strangers, who may place calls; name only the PBXs"
            yield Problem(section, key, what)
    for key, listen in (("listen", http.listen), ("pbx_listen", http.pbx_listen)):
        if any(map(behind_proxy, listen)) and not http.trusted_proxies:
            what = "haproxy: needs trusted_proxies, otherwise its PROXY headers are not trusted"
            yield Problem("http", key, what)
    if not http.pbx_listen:
        yield from _shared_with_phones(config)
    yield from _open_sockets(config)


def _pbx_networks(config: Config) -> list[tuple[str, str, Network]]:
    """The networks that suffice to place calls, each with the section and key that names it."""
    if not config.pbxs:
        return [("http", "pbx_networks", each) for each in config.http.pbx_networks]
    open_pbxs = [pbx for pbx in config.pbxs if not pbx.password]
    return [(pbx.section, "networks", each) for pbx in open_pbxs for each in pbx.networks]


def _shared_with_phones(config: Config) -> Iterator[Problem]:
    """Where phones and PBXs use the same addresses, a proxy must report which is which."""
    http = config.http
    proxies = [each for each in http.trusted_proxies if not _is_wider(each, _SEGMENT_BITS)]
    networks = _pbx_networks(config)
    for section, key, network in networks:
        if any(_overlap(network, proxy) for proxy in proxies):
            what = (
                f"{network} includes a trusted proxy: what it forwards without X-Forwarded-For"
                " may place calls; set pbx_listen, or make sure that every proxy adds the header"
            )
            yield Problem(section, key, what)
            return
    local = [each for each in networks if _is_local_peer(http, each[2])]
    if local and _has_local_proxy(config):
        section, key, _ = local[0]
        what = (
            "includes this host, and phones need a proxy on this host: what it forwards without"
            " X-Forwarded-For may place calls; name the proxy in trusted_proxies, and set"
            " pbx_listen or remove this host"
        )
        yield Problem(section, key, what)


def _has_local_proxy(config: Config) -> bool:
    """Whether phones that are not on this host need a proxy here."""
    hosts = [urlsplit(url).hostname or "" for url in response_apis(config).values()]
    return not all(map(is_loopback, hosts)) and all(map(is_local, config.http.listen))


def response_apis(config: Config) -> dict[str, str]:
    """Where phones answer, by the section that names it; that of [calls] if an app uses it."""
    own = {app.section: app.response_api for app in config.apps.values() if app.response_api}
    shared = len(own) < len(config.apps)
    return ({"calls": config.calls.response_api} if shared else {}) | own


def _is_local_peer(http: HttpSettings, network: Network) -> bool:
    """Whether ``network`` includes the address from which a proxy on this host connects."""
    unix = [arguments(each)[0] == "unix" for each in http.listen]
    if network == UNIX:
        return any(unix)
    return not all(unix) and any(_overlap(network, loopback) for loopback in LOOPBACK_NETWORKS)


def _open_sockets(config: Config) -> Iterator[Problem]:
    """Unix sockets that every user of this host may connect to, where their peers are PBXs."""
    http = config.http
    found = [key for _, key, network in _pbx_networks(config) if network == UNIX]
    for endpoint in http.pbx_listen or http.listen if found else ():
        given = arguments(endpoint)
        if given[0] == "unix" and int(given.get(2, given.get("mode", "660")), 8) & 2:
            what = (
                f"{endpoint} lets every user of this host place calls, because {found[0]}"
                " includes unix; set mode=660"
            )
            yield Problem("http", "pbx_listen" if http.pbx_listen else "listen", what)


def clear_text_passwords(config: Config) -> Iterator[Problem]:
    """Each setting with which a password leaves this host without TLS."""
    if config.database.sqlite_file is None and _sends_password(parse_dsn(config.database.url)):
        what = (
            "the password may go over the network without TLS; add sslmode=verify-full, or"
            " sslmode=require"
        )
        yield Problem("database", "url", what)
    for endpoint in config.admin.listen:
        if arguments(endpoint)[0] != "ssl" and not is_local(endpoint):
            what = f"{endpoint} is no TLS: passwords go over the network in clear text"
            yield Problem("admin", "listen", what)
    redis = config.redis
    if redis.password and not redis.tls and not all(is_loopback(host) for host, _ in redis.nodes):
        what = "the password goes over the network in clear text; set tls = yes"
        yield Problem("redis", "tls", what)


def public_kamailios(config: Config) -> Iterator[Problem]:
    """Each Kamailio that strangers may reach: its evapi has neither passwords nor TLS."""
    for kamailio in config.kamailios:
        host = kamailio.evapi[0] if kamailio.evapi is not None else ""
        try:
            network = ipaddress.ip_network(host)
        except ValueError:
            continue  # a name, whose addresses are not known here
        if not _is_private(network):
            what = (
                "is a public address: evapi has neither passwords nor TLS, so anyone who reaches it"
                " reads and answers every call; use a loopback or private one"
            )
            yield Problem(kamailio.section, "evapi", what)


def _sends_password(given: Mapping[str, str]) -> bool:
    """Whether libpq, with these parameters, may send a password over a network in clear text."""
    if not (given.get("password") or given.get("passfile")):
        return False
    if given.get("sslmode") in _CERTAIN_TLS:
        return False
    # libpq connects to the address if there is one; the name is then only for verification.
    names, addresses = given.get("host", "").split(","), given.get("hostaddr", "").split(",")
    pairs = zip_longest(addresses, names, fillvalue=addresses[0])
    return not all(_is_on_this_host(address or name) for address, name in pairs)


def _is_on_this_host(target: str) -> bool:
    """Whether a host of libpq is loopback or a unix socket, as it is when none is named."""
    return not target or target.startswith(("/", "@")) or is_loopback(target)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a loopback address or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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
