"""
What the web takes from the configuration.

The settings are frozen; a reload replaces the whole value, and each request reads it once.
"""

from __future__ import annotations

import enum
import re

import attrs

from middlewared.model import Platform
from middlewared.networks import LOOPBACK_NETWORKS, Network


class RouteSet(enum.Enum):
    """Which routes a listener serves; /health/ is in every set."""

    ALL = "all"
    PUBLIC = "public"
    """Everything but the PBX's routes, which are 404 there."""
    PBX = "pbx"
    """The PBX's routes."""


@attrs.frozen
class Rate:
    """``burst`` at once, and ``per_s`` a second in the long run."""

    burst: float
    per_s: float


@attrs.frozen(kw_only=True)
class Pbx:
    """
    A PBX as requests are recognised.

    ``networks``: None: it may be anywhere, and has a password. ``password``: of its Basic
    credentials; "": its networks suffice. ``max_calls_per_s``: 0: any number.
    """

    name: str
    networks: tuple[Network, ...] | None
    password: str = attrs.field(default="", repr=False)
    max_calls_per_s: int = 0


@attrs.frozen(kw_only=True)
class PushApp:
    """
    An app as the push parameters of SIP contacts name it.

    ``names``: Apple's bundle id, or the id and the number of a Firebase project. ``team``:
    Apple's id of the team; "": not known, any.
    """

    app: str
    platform: Platform
    names: frozenset[str]
    team: str = ""


@attrs.frozen(kw_only=True)
class WebSettings:
    """The reloadable settings; the defaults are those of the configuration file."""

    pbx_networks: tuple[Network, ...] = LOOPBACK_NETWORKS
    """Where PBXs are, unless ``pbxs`` names them."""
    pbxs: tuple[Pbx, ...] = ()
    kamailios: tuple[Pbx, ...] = ()
    """Those that are connected over evapi; no one else is one of them."""
    trusted_proxies: tuple[Network, ...] = ()
    known_apps: frozenset[tuple[str, Platform]] = frozenset()
    push_apps: tuple[PushApp, ...] = ()
    many_accounts: frozenset[tuple[str, Platform]] = frozenset()
    """Apps that may have several accounts on one phone."""
    max_body_bytes: int = 65_536
    request_timeout_s: float = 10.0
    """From a request's first byte to its last."""
    idle_timeout_s: float = 60.0
    max_connections: int = 20_000
    """Of each listener, so that a flood of apps does not shut out the PBX."""
    sip_user_id_min: int = 100_000_000
    sip_user_id_max: int = 999_999_999
    sip_user_id_pattern: re.Pattern[str] | None = None
    """Accounts are texts that match it; None: numbers from min to max."""
    refusals_allowed: int = 10
    """Refused credentials for one login or account within ``refusals_window_s``, before 429."""
    refusals_allowed_of_address: int = 60
    """The same for an address, whatever logins and accounts it tries."""
    refusals_window_s: float = 60.0
    unknown_keys: Rate = Rate(burst=100, per_s=20.0)
    """Of an address: answers to calls that are not known here, before 429."""
    registrations: Rate = Rate(burst=10, per_s=10 / 60)
    """Of an account, both made and deleted."""
    reports: Rate = Rate(burst=60, per_s=1.0)
    """Of an account, of all kinds together."""


@attrs.define
class LiveSettings:
    """
    What may change while requests are served.

    :ivar current: the settings of new requests; a reload assigns it.
    :ivar keep_alive: False when the daemon stops: each connection closes with its next reply.
    """

    current: WebSettings
    keep_alive: bool = True
