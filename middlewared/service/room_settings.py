"""
What each room takes from the configuration, as frozen settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from middlewared.calls.ringing import RingingSettings
from middlewared.calls.waking import WakingSettings
from middlewared.config import AndroidApp, AppleApp, Config, KamailioSettings, PbxSettings
from middlewared.console.sources import ConsoleSettings
from middlewared.devices.cached_registry import CacheSettings
from middlewared.model import SipUserId, is_text_account
from middlewared.push.google.service_account import ServiceAccount
from middlewared.service.apps import AppKey, LoadedApp
from middlewared.web.settings import Pbx, PushApp, WebSettings

_MOST_DIGITS = 18
_CONSOLE_BODY_BYTES = 4096
_CONSOLE_CONNECTIONS = 200


def ringing_settings(config: Config) -> RingingSettings:
    """What the calls room takes from the configuration."""
    calls = config.calls
    return RingingSettings(
        wait_s=calls.roundtrip_wait_s,
        max_waiting=calls.max_waiting,
        answer_by_registration=calls.answer_by_registration,
        waits_s={
            caller.name: caller.roundtrip_wait_s
            for caller in config.callers
            if caller.roundtrip_wait_s is not None
        },
        waking=WakingSettings(
            calls.response_api,
            calls.resend_interval_s,
            silent_calls=calls.silent_calls,
            silent_wait_s=calls.silent_wait_s,
        ),
    )


def web_settings(config: Config, apps: Mapping[AppKey, LoadedApp]) -> WebSettings:
    """What the web room takes from the configuration and from ``apps``, which it names."""
    http = config.http
    return WebSettings(
        pbx_networks=http.pbx_networks,
        pbxs=tuple(map(_pbx, config.pbxs)),
        kamailios=tuple(map(_kamailio, config.kamailios)),
        trusted_proxies=http.trusted_proxies,
        known_apps=frozenset(config.apps),
        push_apps=tuple(map(_push_app, apps.values())),
        many_accounts=frozenset(
            key for key, app in config.apps.items() if app.accounts_per_token == "many"
        ),
        max_body_bytes=http.max_body_bytes,
        request_timeout_s=http.request_timeout_s,
        idle_timeout_s=http.idle_timeout_s,
        max_connections=http.max_connections,
        sip_user_id_min=config.accounts.sip_user_id_min,
        sip_user_id_max=config.accounts.sip_user_id_max,
        sip_user_id_pattern=config.accounts.sip_user_id_pattern,
    )


def console_settings(config: Config) -> ConsoleSettings:
    """What the console takes from the configuration."""
    accounts = config.accounts

    def account(text: str) -> SipUserId | None:
        if accounts.sip_user_id_pattern is not None:
            return text if is_text_account(text, accounts.sip_user_id_pattern) else None
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            return None
        known = accounts.sip_user_id_min <= int(text) <= accounts.sip_user_id_max
        return int(text) if known and str(int(text)) == text else None

    return ConsoleSettings(
        operators=frozenset(config.admin.operators),
        account=account,
        history_days=config.history.days,
    )


def console_limits(config: Config) -> WebSettings:
    """The limits of the console's listener, whose clients are few."""
    http = config.http
    return WebSettings(
        trusted_proxies=http.trusted_proxies,
        max_body_bytes=min(http.max_body_bytes, _CONSOLE_BODY_BYTES),
        request_timeout_s=http.request_timeout_s,
        idle_timeout_s=http.idle_timeout_s,
        max_connections=min(http.max_connections, _CONSOLE_CONNECTIONS),
    )


def _pbx(pbx: PbxSettings) -> Pbx:
    return Pbx(
        name=pbx.name,
        networks=pbx.networks or None,
        password=pbx.password,
        max_calls_per_s=pbx.max_calls_per_s,
    )


def _kamailio(kamailio: KamailioSettings) -> Pbx:
    return Pbx(name=kamailio.name, networks=None, max_calls_per_s=kamailio.max_calls_per_s)


def kamailio_addresses(config: Config) -> Mapping[str, tuple[str, int]]:
    """Where the evapi of each Kamailio listens, by name."""
    return {each.name: each.evapi for each in config.kamailios if each.evapi is not None}


def _push_app(loaded: LoadedApp) -> PushApp:
    app, names, team = loaded.app, set[str](), ""
    if isinstance(app, AppleApp):
        names, team = {app.topic.removesuffix(".voip")}, app.team_id
    elif isinstance(app, AndroidApp):
        names = {app.project_number}
        if isinstance(loaded.credentials, ServiceAccount):
            names.add(loaded.credentials.project_id)
    return PushApp(app=app.app, platform=app.platform, names=frozenset(names - {""}), team=team)


def cache_settings(config: Config) -> CacheSettings:
    """What the devices room takes from the configuration."""
    return CacheSettings(keep_s=config.database.device_cache_s)


def with_kind_of_accounts(current: Config, new: Config) -> Config:
    """``new``, with numbers or texts as accounts as ``current`` has them: devices are stored so."""
    pattern = current.accounts.sip_user_id_pattern
    if current.accounts.are_texts is new.accounts.are_texts:
        return new
    return attrs.evolve(new, accounts=attrs.evolve(new.accounts, sip_user_id_pattern=pattern))


# Keys that are read once: the objects made from them stay for the life of the process.
_FIXED: Mapping[str, Callable[[Config], object]] = {
    "[http] listen": lambda config: config.http.listen,
    "[http] pbx_listen": lambda config: config.http.pbx_listen,
    "[metrics] listen": lambda config: config.metrics.listen,
    "[admin] listen": lambda config: config.admin.listen,
    "[accounts] backend": lambda config: config.accounts.backend,
    "[accounts] sip_user_id_pattern (numbers or texts)": lambda config: config.accounts.are_texts,
    "[database] url": lambda config: config.database.url,
    "[database] pool_size": lambda config: config.database.pool_size,
    "[redis]": lambda config: config.redis,
    "[http_proxy]": lambda config: config.http_proxy,
}


def needing_restart(current: Config, new: Config) -> list[str]:
    """The sections and keys that differ and that a reload does not change."""
    return [key for key, value in _FIXED.items() if value(current) != value(new)]
