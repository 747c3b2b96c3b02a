"""
The configuration: an ini file becomes frozen values, once, before anything starts.

The one invariant: either every value is usable, or :class:`~middlewared.errors.ConfigError`
names every problem; no text made of a value or a problem holds a secret.
"""

from middlewared.config.reader import read_config
from middlewared.config.values import (
    AccountSettings,
    AndroidApp,
    App,
    AppleApp,
    CallSettings,
    Config,
    DatabaseSettings,
    GcmApp,
    GoogleApp,
    HttpSettings,
    LogSettings,
    MetricsSettings,
    ProxySettings,
    RedisSettings,
)
from middlewared.networks import Network

__all__ = [
    "AccountSettings",
    "AndroidApp",
    "App",
    "AppleApp",
    "CallSettings",
    "Config",
    "DatabaseSettings",
    "GcmApp",
    "GoogleApp",
    "HttpSettings",
    "LogSettings",
    "MetricsSettings",
    "Network",
    "ProxySettings",
    "RedisSettings",
    "read_config",
]
