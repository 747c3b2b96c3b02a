"""
What must hold between values, and what works but is probably not meant.

Pure functions of a Config; each yields (section, key, text).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias
from urllib.parse import urlsplit

from middlewared.config.clear_text import clear_passwords, loopback
from middlewared.config.exposure import stranger_warnings
from middlewared.config.listen import fixed_port
from middlewared.config.values import (
    AccountSettings,
    AndroidApp,
    App,
    AppleApp,
    CallSettings,
    Config,
    GcmApp,
    RedisSettings,
)

Found: TypeAlias = Iterator[tuple[str, str, str]]
_MOST_PUSHES = 100
_APPLE_ID = re.compile(r"[A-Z0-9]{10}")
# Google shut down the legacy protocols behind these in 2019 (GCM) and 2024 (FCM).
_DEAD_LEGACY_HOSTS = {"fcm.googleapis.com", "gcm-http.googleapis.com", "android.googleapis.com"}


def broken_rules(config: Config) -> Found:
    """Every contradiction between values that are each right by themselves."""
    yield from _listening(config)
    yield from _timing(config.calls)
    yield from _accounts(config.accounts)
    yield from _redis(config.redis)
    for app in config.apps.values():
        yield from _credentials(app)


def warnings(config: Config) -> Found:
    """What an operator should hear of at the start."""
    if not config.http.pbx_networks:
        yield "http", "pbx_networks", "is empty: no PBX may place a call"
    for key, what in stranger_warnings(config):
        yield "http", key, what
    if config.accounts.backend == "open":
        yield "accounts", "backend", "open asks nobody: whoever reaches the port is any account"
    yield from _plain_http("accounts", "base_url", config.accounts.base_url)
    yield from _response_api(config)
    yield from clear_passwords(config)
    for app in config.apps.values():
        if isinstance(app, AppleApp):
            if not app.sandbox_url:
                yield (
                    _title(app),
                    "sandbox_url",
                    "is empty: devices of the sandbox (development builds) get no pushes",
                )
        else:
            yield from _plain_http(_title(app), "url", app.url)
            yield from _dead_legacy(app)
        if isinstance(app, AndroidApp) and app.api_key:
            yield from _only_v1(app)


def _title(app: App) -> str:
    return f"app:{app.app}:{app.platform.value}"


def _listening(config: Config) -> Found:
    if not config.http.listen:
        yield "http", "listen", "must name at least one endpoint"
    taken: dict[str, str] = {}
    for section, key, listen in (
        ("http", "listen", config.http.listen),
        ("http", "pbx_listen", config.http.pbx_listen),
        ("metrics", "listen", config.metrics.listen),
    ):
        for endpoint in filter(fixed_port, listen):
            if endpoint in taken:
                yield section, key, f"{endpoint} is taken by {taken[endpoint]}"
            taken[endpoint] = f"[{section}] {key}"


def _timing(calls: CallSettings) -> Found:
    if calls.roundtrip_wait_ms > _MOST_PUSHES * calls.resend_interval_ms:
        yield (
            "calls",
            "resend_interval_ms",
            f"must leave at most {_MOST_PUSHES} pushes in roundtrip_wait_ms",
        )


def _accounts(accounts: AccountSettings) -> Found:
    if accounts.backend == "voipgrid" and not accounts.base_url:
        yield "accounts", "base_url", "must be set for backend = voipgrid"
    if accounts.backend == "htpasswd" and accounts.htpasswd is None:
        yield "accounts", "htpasswd", "must name a file for backend = htpasswd"
    if accounts.sip_user_id_min > accounts.sip_user_id_max:
        yield "accounts", "sip_user_id_min", "must not be greater than sip_user_id_max"


def _redis(redis: RedisSettings) -> Found:
    if redis.cluster and not redis.nodes:
        yield "redis", "nodes", "must name at least one seed for cluster = yes"
    if len(redis.nodes) > 1 and not redis.cluster:
        yield "redis", "nodes", "must be one node unless cluster = yes"
    if redis.username and not redis.password:
        yield "redis", "password", "must be set beside username"
    for key, file in (("ca_file", redis.ca_file), ("certificate", redis.certificate)):
        if file is not None and not redis.tls:
            yield "redis", key, "must not be set without tls = yes"


def _credentials(app: App) -> Found:
    title = _title(app)
    if isinstance(app, AppleApp):
        yield from _apple_credentials(title, app)
    elif isinstance(app, AndroidApp):
        if (app.service_account is None) == (not app.api_key):
            yield title, "", "must have either service_account or api_key"
    elif not app.api_key:
        yield title, "api_key", "must be set"


def _apple_credentials(title: str, app: AppleApp) -> Found:
    token = {"key_file": app.key_file, "key_id": app.key_id, "team_id": app.team_id}
    if app.certificate is not None and any(token.values()):
        yield title, "certificate", "must not be set beside key_file, key_id or team_id"
    elif app.certificate is None and not any(token.values()):
        yield title, "", "must have either certificate, or key_file, key_id and team_id"
    elif app.certificate is None:
        for key in (key for key, value in token.items() if not value):
            yield title, key, "must be set: key_file, key_id and team_id belong together"
    for key, name in (
        ("key_id", app.key_id),
        ("team_id", app.team_id),
        ("sandbox_key_id", app.sandbox_key_id),
    ):
        if name and not _APPLE_ID.fullmatch(name):
            yield title, key, "must be 10 capital letters and digits, as Apple's site shows it"
    yield from _sandbox_key(title, app)


def _sandbox_key(title: str, app: AppleApp) -> Found:
    pair = {"sandbox_key_file": app.sandbox_key_file, "sandbox_key_id": app.sandbox_key_id}
    given = [key for key, value in pair.items() if value]
    for key in pair.keys() - set(given):
        if given:
            yield title, key, "must be set: sandbox_key_file and sandbox_key_id belong together"
    for key in given:
        if app.certificate is not None:
            yield title, key, "must not be set with certificate, which is for both environments"
        elif app.key_file is None:
            yield title, key, "must not be set without key_file, key_id and team_id"
        elif not app.sandbox_url:
            yield title, key, "must not be set while sandbox_url is empty: the sandbox is off"


def _plain_http(section: str, key: str, url: str) -> Found:
    if url.startswith("http:"):
        yield section, key, "http sends everything in clear; meant for relays and tests"


def _response_api(config: Config) -> Found:
    url = urlsplit(config.calls.response_api)
    if not config.apps:
        return
    if loopback(url.hostname or ""):
        yield "calls", "response_api", "is a loopback address, which no phone can reach"
    elif url.scheme == "http":
        yield from _plain_http("calls", "response_api", config.calls.response_api)


def _dead_legacy(app: AndroidApp | GcmApp) -> Found:
    if app.api_key and urlsplit(app.url).hostname in _DEAD_LEGACY_HOSTS:
        yield (
            _title(app),
            "url",
            "Google has shut the legacy protocol down there; set a relay's URL",
        )


def _only_v1(app: AndroidApp) -> Found:
    for key, is_set in (
        ("address", app.address != "auto"),
        ("analytics_label", bool(app.analytics_label)),
    ):
        if is_set:
            yield _title(app), key, "has no effect with api_key: only FCM HTTP v1 knows it"
