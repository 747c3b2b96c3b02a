"""
What each room takes from the configuration, as frozen settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from middlewared.calls.ringing import RingingSettings
from middlewared.calls.waking import WakingSettings
from middlewared.config import Config
from middlewared.devices.cached_registry import CacheSettings
from middlewared.history.interface import Retention
from middlewared.web.settings import WebSettings


def ringing_settings(config: Config) -> RingingSettings:
    """What the calls room takes from the configuration."""
    calls = config.calls
    return RingingSettings(
        wait_s=calls.roundtrip_wait_s,
        max_waiting=calls.max_waiting,
        waking=WakingSettings(
            calls.response_api,
            calls.resend_interval_s,
            silent_calls=calls.silent_calls,
            silent_wait_s=calls.silent_wait_s,
        ),
    )


def web_settings(config: Config) -> WebSettings:
    """What the web room takes from the configuration."""
    http = config.http
    return WebSettings(
        pbx_networks=http.pbx_networks,
        trusted_proxies=http.trusted_proxies,
        known_apps=frozenset(config.apps),
        many_accounts=frozenset(
            key for key, app in config.apps.items() if app.accounts_per_token == "many"
        ),
        max_body_bytes=http.max_body_bytes,
        request_timeout_s=http.request_timeout_s,
        idle_timeout_s=http.idle_timeout_s,
        max_connections=http.max_connections,
        sip_user_id_min=config.accounts.sip_user_id_min,
        sip_user_id_max=config.accounts.sip_user_id_max,
    )


def cache_settings(config: Config) -> CacheSettings:
    """What the devices room takes from the configuration."""
    return CacheSettings(keep_s=config.database.device_cache_s)


def retention(config: Config) -> Retention:
    """What the history room takes from the configuration."""
    history = config.history
    return Retention(days=history.days, max_calls=history.max_calls, numbers=history.numbers)


# Keys that are read once: the objects made from them stay for the life of the process.
_FIXED: Mapping[str, Callable[[Config], object]] = {
    "[http] listen": lambda config: config.http.listen,
    "[http] pbx_listen": lambda config: config.http.pbx_listen,
    "[metrics] listen": lambda config: config.metrics.listen,
    "[accounts] backend": lambda config: config.accounts.backend,
    "[database] url": lambda config: config.database.url,
    "[database] pool_size": lambda config: config.database.pool_size,
    "[redis]": lambda config: config.redis,
    "[http_proxy]": lambda config: config.http_proxy,
}


def needing_restart(current: Config, new: Config) -> list[str]:
    """The sections and keys that differ and that a reload does not change."""
    return [key for key, value in _FIXED.items() if value(current) != value(new)]
