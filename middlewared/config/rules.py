"""
What must hold between values, and what works but is probably not intended.

Pure functions of a Config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from middlewared.config.endpoint_descriptions import has_fixed_port
from middlewared.config.exposure import (
    clear_text_passwords,
    is_loopback,
    public_kamailios,
    response_apis,
    stranger_warnings,
)
from middlewared.config.values import (
    AccountSettings,
    AdminSettings,
    AndroidApp,
    App,
    AppleApp,
    Config,
    GoogleApp,
    RedisSettings,
)
from middlewared.errors import Problem
from middlewared.networks import LOOPBACK_NETWORKS

_MOST_PUSHES = 100
_APPLE_ID = re.compile(r"[A-Z0-9]{10}")
# Google shut down the legacy protocols behind these in 2019 (GCM) and 2024 (FCM).
_DEAD_LEGACY_HOSTS = {"fcm.googleapis.com", "gcm-http.googleapis.com", "android.googleapis.com"}


def broken_rules(config: Config) -> Iterator[Problem]:
    """Every contradiction between values each of which is valid alone."""
    yield from _listening(config)
    yield from _timing(config)
    for pbx in config.pbxs:
        if not (pbx.networks or pbx.password):
            yield Problem(pbx.section, "", "must have networks, a password, or both")
    yield from _kamailios(config)
    yield from _accounts(config.accounts)
    yield from _admin(config.admin)
    yield from _redis(config.redis)
    for app in config.apps.values():
        yield from _credentials(app)


def warnings(config: Config) -> Iterator[Problem]:
    """What an operator should know at the start, though the configuration works."""
    if config.pbxs and config.http.pbx_networks != LOOPBACK_NETWORKS:
        yield Problem("http", "pbx_networks", "has no effect beside [pbx:NAME]")
    if not (config.pbxs or config.http.pbx_networks):
        yield Problem("http", "pbx_networks", "is empty: no PBX may place a call")
    yield from stranger_warnings(config)
    if config.accounts.backend == "open":
        what = "open checks no credentials: anyone who reaches the port can be any account"
        yield Problem("accounts", "backend", what)
    yield from _plain_http("accounts", "base_url", config.accounts.base_url)
    yield from _response_api(config)
    yield from clear_text_passwords(config)
    yield from public_kamailios(config)
    for app in config.apps.values():
        yield from _apple_warnings(app) if isinstance(app, AppleApp) else _google_warnings(app)


def _listening(config: Config) -> Iterator[Problem]:
    if not config.http.listen:
        yield Problem("http", "listen", "must name at least one endpoint")
    taken: dict[str, str] = {}
    for section, key, listen in (
        ("http", "listen", config.http.listen),
        ("http", "pbx_listen", config.http.pbx_listen),
        ("metrics", "listen", config.metrics.listen),
        ("admin", "listen", config.admin.listen),
    ):
        for endpoint in filter(has_fixed_port, listen):
            if endpoint in taken:
                yield Problem(section, key, f"{endpoint} is taken by {taken[endpoint]}")
            taken[endpoint] = f"[{section}] {key}"


def _timing(config: Config) -> Iterator[Problem]:
    most_s = config.calls.resend_interval_s * (_MOST_PUSHES + 1e-9)
    if config.calls.roundtrip_wait_s > most_s:
        what = f"must leave at most {_MOST_PUSHES} pushes in roundtrip_wait_ms"
        yield Problem("calls", "resend_interval_ms", what)
    for caller in config.callers:
        if caller.roundtrip_wait_s is not None and caller.roundtrip_wait_s > most_s:
            what = f"must leave at most {_MOST_PUSHES} pushes every resend_interval_ms"
            yield Problem(caller.section, "roundtrip_wait_ms", what)
    own_waits_s = [each.roundtrip_wait_s or 0 for each in config.callers]
    waits_s = [config.calls.roundtrip_wait_s, *own_waits_s]
    for app in config.apps.values():
        interval_s = app.resend_interval_s
        if interval_s is not None and max(waits_s) > interval_s * (_MOST_PUSHES + 1e-9):
            what = f"must leave at most {_MOST_PUSHES} pushes in roundtrip_wait_ms"
            yield Problem(app.section, "resend_interval_ms", what)


def _kamailios(config: Config) -> Iterator[Problem]:
    names = {pbx.name for pbx in config.pbxs}
    addresses: dict[tuple[str, int], str] = {}
    for kamailio in config.kamailios:
        if kamailio.name in names:
            yield Problem(kamailio.section, "", f"must not have the name of [pbx:{kamailio.name}]")
        if kamailio.evapi is None:
            yield Problem(kamailio.section, "evapi", "must be set")
        elif kamailio.evapi in addresses:
            what = f"is that of [{addresses[kamailio.evapi]}]"
            yield Problem(kamailio.section, "evapi", what)
        else:
            addresses[kamailio.evapi] = kamailio.section


def _accounts(accounts: AccountSettings) -> Iterator[Problem]:
    if accounts.backend == "voipgrid" and not accounts.base_url:
        yield Problem("accounts", "base_url", "must be set for backend = voipgrid")
    if accounts.backend == "htpasswd" and accounts.htpasswd is None:
        yield Problem("accounts", "htpasswd", "must name a file for backend = htpasswd")
    if accounts.sip_user_id_min > accounts.sip_user_id_max:
        what = "must not be greater than sip_user_id_max"
        yield Problem("accounts", "sip_user_id_min", what)


def _admin(admin: AdminSettings) -> Iterator[Problem]:
    if admin.listen and admin.htpasswd is None:
        what = "must name a file while listen is set (middlewared passwd makes one)"
        yield Problem("admin", "htpasswd", what)


def _redis(redis: RedisSettings) -> Iterator[Problem]:
    if redis.cluster and not redis.nodes:
        yield Problem("redis", "nodes", "must name at least one seed for cluster = yes")
    if len(redis.nodes) > 1 and not redis.cluster:
        yield Problem("redis", "nodes", "must be one node unless cluster = yes")
    if redis.username and not redis.password:
        yield Problem("redis", "password", "must be set beside username")
    for key, file in (("ca_file", redis.ca_file), ("certificate", redis.certificate)):
        if file is not None and not redis.tls:
            yield Problem("redis", key, "must not be set without tls = yes")


def _credentials(app: App) -> Iterator[Problem]:
    if isinstance(app, AppleApp):
        yield from _apple_credentials(app)
    elif isinstance(app, AndroidApp):
        if (app.service_account is None) == (not app.api_key):
            yield Problem(app.section, "", "must have either service_account or api_key")
    elif not app.api_key:
        yield Problem(app.section, "api_key", "must be set")


def _apple_credentials(app: AppleApp) -> Iterator[Problem]:
    token = {"key_file": app.key_file, "key_id": app.key_id, "team_id": app.team_id}
    if app.certificate is not None and any(token.values()):
        what = "must not be set beside key_file, key_id or team_id"
        yield Problem(app.section, "certificate", what)
    elif app.certificate is None and not any(token.values()):
        what = "must have either certificate, or key_file, key_id and team_id"
        yield Problem(app.section, "", what)
    elif app.certificate is None:
        what = "must be set: key_file, key_id and team_id belong together"
        for key in (key for key, value in token.items() if not value):
            yield Problem(app.section, key, what)
    for key in ("key_id", "team_id", "sandbox_key_id"):
        name = getattr(app, key)
        if name and not _APPLE_ID.fullmatch(name):
            what = "must be 10 capital letters and digits, as Apple's site shows it"
            yield Problem(app.section, key, what)
    yield from _sandbox_key(app)


def _sandbox_key(app: AppleApp) -> Iterator[Problem]:
    pair = {"sandbox_key_file": app.sandbox_key_file, "sandbox_key_id": app.sandbox_key_id}
    given = [key for key, value in pair.items() if value]
    for key in pair.keys() - set(given) if given else ():
        what = "must be set: sandbox_key_file and sandbox_key_id belong together"
        yield Problem(app.section, key, what)
    for key in given:
        if app.certificate is not None:
            what = "must not be set with certificate, which is for both environments"
            yield Problem(app.section, key, what)
        elif app.key_file is None:
            what = "must not be set without key_file, key_id and team_id"
            yield Problem(app.section, key, what)
        elif not app.sandbox_url:
            what = "must not be set while sandbox_url is empty: the sandbox is off"
            yield Problem(app.section, key, what)


def _plain_http(section: str, key: str, url: str) -> Iterator[Problem]:
    if url.startswith("http:"):
        what = "http sends everything in clear text: use it for relays and tests only"
        yield Problem(section, key, what)


def _response_api(config: Config) -> Iterator[Problem]:
    for section, url in response_apis(config).items():
        if is_loopback(urlsplit(url).hostname or ""):
            what = "is a loopback address, which no phone can reach"
            yield Problem(section, "response_api", what)
        else:
            yield from _plain_http(section, "response_api", url)


def _apple_warnings(app: AppleApp) -> Iterator[Problem]:
    if not app.sandbox_url:
        what = "is empty: devices of the sandbox (development builds) get no pushes"
        yield Problem(app.section, "sandbox_url", what)


def _google_warnings(app: GoogleApp) -> Iterator[Problem]:
    yield from _plain_http(app.section, "url", app.url)
    if app.api_key and urlsplit(app.url).hostname in _DEAD_LEGACY_HOSTS:
        what = "Google has shut down the legacy protocol there: set the URL of a relay"
        yield Problem(app.section, "url", what)
    if isinstance(app, AndroidApp) and app.api_key:
        what = "has no effect with api_key: only FCM HTTP v1 supports it"
        if app.address != "auto":
            yield Problem(app.section, "address", what)
        if app.analytics_label:
            yield Problem(app.section, "analytics_label", what)
