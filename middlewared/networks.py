"""Networks as the configuration names them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal, TypeAlias

UNIX: Final = "unix"
"""Stands for all peers of unix sockets, which have no address."""
Network: TypeAlias = IPv4Network | IPv6Network | Literal["unix"]

LOOPBACK_NETWORKS: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
