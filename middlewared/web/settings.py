"""
What the web room takes from the configuration.

The one invariant: the value is frozen; a reload assigns a new one, so that each request is
handled by one set of rules.
"""

from __future__ import annotations

import enum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal, TypeAlias

import attrs

from middlewared.model import Platform

UNIX: Final = "unix"
"""Stands among networks for all peers of unix sockets, which have no address."""
Network: TypeAlias = IPv4Network | IPv6Network | Literal["unix"]

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class RouteSet(enum.Enum):
    """Which routes a listening port serves; /health/ is on every face."""

    WHOLE = "whole"
    PUBLIC = "public"
    """Everything but the PBX's route, which is 404 here."""
    PBX = "pbx"
    """The PBX's route and nothing else."""


@attrs.frozen
class Rate:
    """``burst`` at once, and ``per_s`` a second in the long run."""

    burst: float
    per_s: float


@attrs.frozen(kw_only=True)
class WebSettings:
    """The reloadable settings; the defaults are those of the configuration file."""

    pbx_networks: tuple[Network, ...] = LOOPBACK
    trusted_proxies: tuple[Network, ...] = ()
    known_apps: frozenset[tuple[str, Platform]] = frozenset()
    many_accounts: frozenset[tuple[str, Platform]] = frozenset()
    """Apps that may have several accounts on one phone."""
    max_body_bytes: int = 65_536
    request_timeout_s: float = 10.0
    """From a request's first byte to its last."""
    idle_timeout_s: float = 60.0
    max_connections: int = 20_000
    """For each listening face, so that a flood of apps leaves the PBX its own room."""
    sip_user_id_min: int = 100_000_000
    sip_user_id_max: int = 999_999_999
    refusals_allowed: int = 10
    """Refused credentials for one login or account inside ``refusals_window_s``, before 429."""
    refusals_allowed_of_address: int = 60
    """The same for an address, whatever logins and accounts it tries."""
    refusals_window_s: float = 60.0
    unknown_keys: Rate = Rate(burst=100, per_s=20.0)
    """Of an address: answers to calls that are not known here, before 429."""
    registrations: Rate = Rate(burst=10, per_s=10 / 60)
    """Of an account, both made and deleted."""
    reports: Rate = Rate(burst=60, per_s=1.0)
    """Of an account, of all kinds together."""
