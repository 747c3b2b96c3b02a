"""
Where a request comes from.

X-Forwarded-For is trusted as far as trusted proxies wrote it. An entry that cannot be read
belongs to no network.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, TypeAlias

from middlewared.networks import UNIX, Network

Address: TypeAlias = IPv4Address | IPv6Address | Literal["unix"]

# RFC 7239 section 6: proxies may add a port, and then put IPv6 addresses in brackets.
_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]+)\](:[0-9]+)?|(?P<v4>[0-9.]+):[0-9]+")


def client_address(
    peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]
) -> Address | None:
    """
    The right-most address that is not in ``trusted``.

    :param peer: the connection's own address; None for a unix socket.
    :param forwarded_for: all X-Forwarded-For headers in the order received.
    :return: None when a trusted proxy wrote something that is no address.
    """
    address = peer_address(peer)
    entries = [entry for header in forwarded_for for entry in header.split(",")]
    while entries and address is not None and within(address, trusted):
        address = parse_address(entries.pop())
    return address


def forwarding_fault(
    peer: str | None,
    forwarded_for: Sequence[str],
    forwarded: Sequence[str],
    trusted: Sequence[Network],
) -> str:
    """
    Why the client's address proves nothing; "" when it can be trusted.

    A proxy that is not trusted may forward for anyone; its own address does not identify them.

    :param forwarded: all Forwarded headers (RFC 7239), whose content is never used.
    """
    if (forwarded_for or forwarded) and not within(peer_address(peer), trusted):
        return "forwarded by a peer that is in none of trusted_proxies"
    if forwarded and not forwarded_for:
        return "forwarded by a trusted proxy without X-Forwarded-For"
    return ""


def within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether ``address`` is in one of ``networks``; None is in none."""
    if address is None:
        return False
    if isinstance(address, str):
        return address in networks
    return any(network != UNIX and address in network for network in networks)


def rate_limit_key(address: Address | None) -> Hashable:
    """
    The client that a limit counts: an IPv4 address, or the first 64 bits of an IPv6 address.

    One client may use all addresses of its /64. Unreadable addresses count as one client.
    """
    return address.packed[:8] if isinstance(address, IPv6Address) else address


def peer_address(peer: str | None) -> Address | None:
    """The address of a connection's other end; None stands for a unix socket's."""
    return UNIX if peer is None else parse_address(peer)


@lru_cache(maxsize=1024)
def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """
    An address with or without a port; None: it is none.

    IPv4-mapped IPv6 is the IPv4 address that it maps.
    """
    text = text.strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match["v6"] or match["v4"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        address = IPv6Address(address.packed)  # the zone may be any text
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
