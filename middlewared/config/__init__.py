"""
The configuration: an ini file becomes frozen values before anything is started or reloaded.

Either every value is usable, or :class:`~middlewared.errors.ConfigError` names every problem.
No text form of a value or a problem contains a secret.
"""

from middlewared.config.reader import read_config
from middlewared.config.values import (
    AccountSettings,
    AdminSettings,
    AndroidApp,
    App,
    AppleApp,
    CallSettings,
    Config,
    DatabaseSettings,
    GcmApp,
    GoogleApp,
    HttpSettings,
    KamailioSettings,
    LogSettings,
    MetricsSettings,
    PbxSettings,
    ProxySettings,
    RedisSettings,
)
from middlewared.networks import Network

__all__ = [
    "AccountSettings",
    "AdminSettings",
    "AndroidApp",
    "App",
    "AppleApp",
    "CallSettings",
    "Config",
    "DatabaseSettings",
    "GcmApp",
    "GoogleApp",
    "HttpSettings",
    "KamailioSettings",
    "LogSettings",
    "MetricsSettings",
    "Network",
    "PbxSettings",
    "ProxySettings",
    "RedisSettings",
    "read_config",
]
