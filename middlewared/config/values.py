"""
The configuration's values: one frozen class for each kind of section.

Each class describes a section for the reader, attribute by attribute: parser, default, and the
key where it differs from the attribute's name, as that of durations does: they are milliseconds
in the ini file and seconds everywhere else. The text form of each class hides its secrets.
"""

# ruff: noqa: RUF009 -- setting() declares a field, it is attrs.field with our metadata.

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import attrs

from middlewared.config.endpoint_descriptions import endpoints
from middlewared.config.parsers import (
    account,
    analytics_label,
    boolean,
    choice,
    count,
    database_url,
    digits,
    duration,
    duration_or_0,
    integer,
    names,
    networks,
    node,
    nodes,
    optional_duration,
    path,
    pattern,
    patterns,
    proxy_url,
    setting,
    show_url,
    text,
    url_path,
    web_url,
)
from middlewared.errors import Problem
from middlewared.model import Platform
from middlewared.networks import Network

DEFAULTS = "built-in defaults"
"""The source of a configuration without a file."""

Backend: TypeAlias = Literal["none", "voipgrid", "htpasswd", "open"]
Level: TypeAlias = Literal["debug", "info", "warn", "error", "critical"]
Format: TypeAlias = Literal["text", "json"]
Resend: TypeAlias = Literal["auto", "always", "never"]
Address: TypeAlias = Literal["auto", "token", "fid"]
Accounts: TypeAlias = Literal["one", "many"]
Numbers: TypeAlias = Literal["none", "last3", "all"]


@attrs.frozen
class HttpSettings:
    """``[http]``: where requests are received, and their limits."""

    listen: tuple[str, ...] = setting(endpoints, "tcp:8080:interface=127.0.0.1")
    pbx_listen: tuple[str, ...] = setting(endpoints, "")
    pbx_networks: tuple[Network, ...] = setting(networks, "127.0.0.0/8, ::1/128")
    trusted_proxies: tuple[Network, ...] = setting(networks, "")
    max_body_bytes: int = setting(integer(1, 1 << 30), "65536")
    request_timeout_s: float = setting(duration, "10000", key="request_timeout_ms")
    idle_timeout_s: float = setting(duration, "60000", key="idle_timeout_ms")
    max_connections: int = setting(count, "20000")


@attrs.frozen
class PbxSettings:
    """``[pbx:NAME]``: a PBX. ``networks`` empty: any; ``roundtrip_wait_s`` None: of [calls]."""

    name: str
    networks: tuple[Network, ...] = setting(networks, "")
    password: str = setting(text, "", secret=True)
    roundtrip_wait_s: float | None = setting(optional_duration, "", key="roundtrip_wait_ms")
    max_calls_per_s: int = setting(integer(0, 1_000_000), "0")

    @property
    def section(self) -> str:
        """The section's title."""
        return f"pbx:{self.name}"


@attrs.frozen
class IncludeSettings:
    """``[include]``: further files, as patterns of absolute names."""

    files: tuple[str, ...] = setting(patterns, "")


@attrs.frozen
class KamailioSettings:
    """``[kamailio:NAME]``: a Kamailio whose module evapi listens at ``evapi``."""

    name: str
    evapi: tuple[str, int] | None = setting(node, "")
    roundtrip_wait_s: float | None = setting(optional_duration, "", key="roundtrip_wait_ms")
    max_calls_per_s: int = setting(integer(0, 1_000_000), "0")

    @property
    def section(self) -> str:
        """The section's title."""
        return f"kamailio:{self.name}"


@attrs.frozen
class MetricsSettings:
    """``[metrics]``: where Prometheus reads; metrics are off when ``listen`` is empty."""

    listen: tuple[str, ...] = setting(endpoints, "tcp:9000:interface=127.0.0.1")


@attrs.frozen
class CallSettings:
    """``[calls]``: the timing of calls and of the drain."""

    response_api: str = setting(
        web_url("http", "https", query=True), "http://127.0.0.1:8080/api/call-response/"
    )
    roundtrip_wait_s: float = setting(duration, "4000", key="roundtrip_wait_ms")
    resend_interval_s: float = setting(duration, "1000", key="resend_interval_ms")
    drain_s: float = setting(duration_or_0, "10000", key="drain_ms")
    drain_notice_s: float = setting(duration_or_0, "0", key="drain_notice_ms")
    max_waiting: int = setting(count, "20000")
    answer_by_registration: bool = setting(boolean, "no")
    silent_calls: int = setting(integer(0, 1_000_000), "0")
    silent_wait_s: float = setting(duration, "1500", key="silent_wait_ms")


@attrs.frozen
class AccountSettings:
    """``[accounts]``: how the credentials that apps send are checked."""

    backend: Backend = setting(choice(*get_args(Backend)), "none")
    base_url: str = setting(web_url("http", "https", optional=True), "")
    profile_path: str = setting(url_path, "/api/permission/systemuser/profile/")
    timeout_s: float = setting(duration, "5000", key="timeout_ms")
    cache_s: float = setting(duration_or_0, "0", key="cache_ms")
    htpasswd: Path | None = setting(path, "")
    sip_user_id_min: int = setting(account, "100000000")
    sip_user_id_max: int = setting(account, "999999999")
    sip_user_id_pattern: re.Pattern[str] | None = setting(pattern, "")

    @property
    def are_texts(self) -> bool:
        """Whether accounts are texts; without a pattern they are numbers."""
        return self.sip_user_id_pattern is not None


@attrs.frozen
class DatabaseSettings:
    """``[database]``: ``url`` is ``sqlite:/absolute/path`` or ``postgresql://...``."""

    url: str = setting(database_url, "sqlite:middlewared.sqlite3", show=show_url)
    pool_size: int = setting(integer(1, 1000), "5")
    device_cache_s: float = setting(duration_or_0, "600000", key="device_cache_ms")

    @property
    def sqlite_file(self) -> Path | None:
        """The file of an SQLite database, None for PostgreSQL."""
        scheme, _, name = self.url.partition(":")
        return Path(name) if scheme == "sqlite" else None


@attrs.frozen
class RedisSettings:
    """``[redis]``: the shared rendezvous; in-process when ``nodes`` is empty."""

    nodes: tuple[tuple[str, int], ...] = setting(nodes, "")
    cluster: bool = setting(boolean, "no")
    username: str = setting(text, "")
    password: str = setting(text, "", secret=True)
    tls: bool = setting(boolean, "no")
    ca_file: Path | None = setting(path, "")
    certificate: Path | None = setting(path, "")


@attrs.frozen
class ProxySettings:
    """``[http_proxy]``: the CONNECT proxy for outgoing connections; "": none."""

    url: str = setting(proxy_url, "", show=show_url)


@attrs.frozen
class HistorySettings:
    """``[history]``: what is kept of ended calls and of devices; nothing when ``days`` is 0."""

    days: int = setting(integer(0, 3650), "14")
    max_calls: int = setting(count, "1000000")
    numbers: Numbers = setting(choice(*get_args(Numbers)), "last3")


@attrs.frozen
class AdminSettings:
    """``[admin]``: the console; off when ``listen`` is empty."""

    listen: tuple[str, ...] = setting(endpoints, "")
    htpasswd: Path | None = setting(path, "")
    operators: tuple[str, ...] = setting(names, "")


@attrs.frozen
class LogSettings:
    """``[log]``: without ``file`` standard output, without ``metrics_file`` no app reports."""

    level: Level = setting(choice(*get_args(Level)), "info")
    format: Format = setting(choice(*get_args(Format)), "text")
    file: Path | None = setting(path, "")
    metrics_file: Path | None = setting(path, "")


@attrs.frozen
class AppSettings:
    """
    The keys of app sections on all platforms; ``app`` is the app id in the title.

    If a section has any of ``credential_keys``, it inherits none of them from its defaults.
    """

    platform: ClassVar[Platform]
    credential_keys: ClassVar[frozenset[str]]
    app: str
    ca_file: Path | None = setting(path, "")
    resend: Resend = setting(choice(*get_args(Resend)), "auto")
    lost_account_notice: bool = setting(boolean, "yes")
    response_api: str = setting(web_url("http", "https", optional=True, query=True), "")
    resend_interval_s: float | None = setting(optional_duration, "", key="resend_interval_ms")
    payload: Path | None = setting(path, "")
    accounts_per_token: Accounts = setting(choice(*get_args(Accounts)), "one")

    @property
    def section(self) -> str:
        """The section's title."""
        return f"app:{self.app}:{self.platform.value}"


def _topic(topic: str, app: Any) -> str:
    return topic or f"{app.app}.voip"


@attrs.frozen
class AppleApp(AppSettings):
    """
    ``[app:ID:apns]``.

    Either ``certificate``, or all of ``key_file``, ``key_id`` and ``team_id``, is set; with a key,
    optionally another one for the sandbox. ``sandbox_url`` "": there is no sandbox.
    """

    platform: ClassVar[Platform] = Platform.APNS
    credential_keys: ClassVar[frozenset[str]] = frozenset(
        {"certificate", "key_file", "key_id", "team_id", "sandbox_key_file", "sandbox_key_id"}
    )
    certificate: Path | None = setting(path, "")
    key_file: Path | None = setting(path, "")
    key_id: str = setting(text, "")
    team_id: str = setting(text, "")
    sandbox_key_file: Path | None = setting(path, "")
    sandbox_key_id: str = setting(text, "")
    topic: str = setting(text, "", converter=attrs.Converter(_topic, takes_self=True))
    production_url: str = setting(web_url("https"), "https://api.push.apple.com")
    sandbox_url: str = setting(
        web_url("https", optional=True), "https://api.sandbox.push.apple.com"
    )
    connections: int = setting(integer(1, 100), "2")


@attrs.frozen
class AndroidApp(AppSettings):
    """``[app:ID:android]``: FCM HTTP v1 with ``service_account``, legacy with ``api_key``."""

    platform: ClassVar[Platform] = Platform.ANDROID
    credential_keys: ClassVar[frozenset[str]] = frozenset({"service_account", "api_key"})
    service_account: Path | None = setting(path, "")
    api_key: str = setting(text, "", secret=True)
    url: str = setting(web_url("https", "http"), "https://fcm.googleapis.com")
    project_number: str = setting(digits, "")
    address: Address = setting(choice(*get_args(Address)), "auto")
    analytics_label: str = setting(analytics_label, "")


@attrs.frozen
class GcmApp(AppSettings):
    """``[app:ID:gcm]``: the GCM protocol, for relays that support it."""

    platform: ClassVar[Platform] = Platform.GCM
    credential_keys: ClassVar[frozenset[str]] = frozenset({"api_key"})
    api_key: str = setting(text, "", secret=True)
    url: str = setting(web_url("https", "http"), "https://gcm-http.googleapis.com/gcm/send")


GoogleApp: TypeAlias = AndroidApp | GcmApp
App: TypeAlias = AppleApp | AndroidApp | GcmApp
Apps: TypeAlias = Mapping[tuple[str, Platform], App]


def _frozen(apps: Apps) -> Apps:
    return MappingProxyType(dict(apps))


@attrs.frozen
class Config:
    """
    A complete configuration that has passed every check.

    ``pbxs`` and ``kamailios`` are in the order of the file. ``apps`` is keyed by app id and
    platform. ``warnings`` are about what works but is probably not intended. ``source`` is the
    file's name, for messages.
    """

    include: IncludeSettings = attrs.field(factory=IncludeSettings)
    http: HttpSettings = attrs.field(factory=HttpSettings)
    metrics: MetricsSettings = attrs.field(factory=MetricsSettings)
    calls: CallSettings = attrs.field(factory=CallSettings)
    accounts: AccountSettings = attrs.field(factory=AccountSettings)
    database: DatabaseSettings = attrs.field(factory=DatabaseSettings)
    redis: RedisSettings = attrs.field(factory=RedisSettings)
    http_proxy: ProxySettings = attrs.field(factory=ProxySettings)
    history: HistorySettings = attrs.field(factory=HistorySettings)
    admin: AdminSettings = attrs.field(factory=AdminSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    pbxs: tuple[PbxSettings, ...] = ()
    kamailios: tuple[KamailioSettings, ...] = ()
    apps: Apps = attrs.field(factory=dict, converter=_frozen)
    warnings: tuple[Problem, ...] = ()
    source: str = attrs.field(default=DEFAULTS, eq=False)

    @property
    def callers(self) -> tuple[PbxSettings | KamailioSettings, ...]:
        """Everything with a name that places calls."""
        return (*self.pbxs, *self.kamailios)
