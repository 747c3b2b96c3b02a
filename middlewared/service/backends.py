"""
Which implementation of a seam the configuration chooses.

The one invariant: a choice is named in the configuration and made here; no room knows
that there are others of its kind.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from middlewared.accounts.htpasswd import HtpasswdAccounts, Passwords, read_passwords
from middlewared.accounts.none import NoAccounts
from middlewared.accounts.open import OpenAccounts
from middlewared.accounts.voipgrid import VoipgridAccounts, VoipgridSettings
from middlewared.config import AccountSettings, Config
from middlewared.devices.interface import DeviceRegistry
from middlewared.devices.sqlite import SqliteRegistry
from middlewared.errors import ConfigError
from middlewared.outgoing.endpoints import DirectEndpoints
from middlewared.outgoing.interface import HttpClient, TcpEndpoints
from middlewared.outgoing.proxy import Proxy, ProxyEndpoints
from middlewared.rendezvous.memory import MemoryRendezvous

Accounts: TypeAlias = VoipgridAccounts | HtpasswdAccounts | NoAccounts | OpenAccounts


class Registry(DeviceRegistry, Protocol):
    """A registry that is opened and closed."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def make_registry(config: Config, *, reactor: Any) -> Registry:
    """The device registry of ``[database]``."""
    path = config.database.sqlite_file
    if path is None:
        raise ConfigError(["[database] url: PostgreSQL is not supported yet"])
    return SqliteRegistry(path=path, reactor=reactor)


def make_rendezvous(config: Config, *, reactor: Any) -> MemoryRendezvous:
    """The rendezvous of ``[redis]``."""
    if config.redis.nodes:
        raise ConfigError(["[redis] nodes: Redis is not supported yet"])
    return MemoryRendezvous(clock=reactor)


def voipgrid_settings(accounts: AccountSettings) -> VoipgridSettings:
    """What the account API's client takes from the configuration."""
    return VoipgridSettings(
        base_url=accounts.base_url,
        profile_path=accounts.profile_path,
        timeout_ms=accounts.timeout_ms,
        cache_ms=accounts.cache_ms,
    )


def make_endpoints(config: Config, *, reactor: Any) -> TcpEndpoints:
    """Where outgoing connections begin: straight, or through ``[http_proxy]``."""
    url = config.http_proxy.url
    if not url:
        return DirectEndpoints(reactor)
    return ProxyEndpoints(reactor=reactor, proxy=Proxy.from_url(url))


def make_accounts(config: Config, *, reactor: Any, client: HttpClient) -> Accounts:
    """
    The account backend of ``[accounts]``.

    :raises ConfigError: the password file cannot be used.
    """
    accounts = config.accounts
    match accounts.backend:
        case "voipgrid":
            return VoipgridAccounts(
                client=client, clock=reactor, settings=voipgrid_settings(accounts)
            )
        case "htpasswd":
            return HtpasswdAccounts(reactor=reactor, settings=_passwords(accounts))
        case "open":
            return OpenAccounts()
        case "none":
            return NoAccounts()


def reload_accounts(accounts: Accounts, config: Config) -> None:
    """
    Give the present backend the new settings; the choice of another needs a restart.

    :raises ConfigError: the password file cannot be used; nothing has changed.
    """
    match accounts:
        case VoipgridAccounts() if config.accounts.backend == "voipgrid":
            accounts.settings = voipgrid_settings(config.accounts)
        case HtpasswdAccounts() if config.accounts.backend == "htpasswd":
            accounts.settings = _passwords(config.accounts)
        case _:
            pass


def start_accounts(accounts: Accounts) -> None:
    """Start what runs of its own."""
    if isinstance(accounts, HtpasswdAccounts):
        accounts.start()


def stop_accounts(accounts: Accounts) -> None:
    """Stop what ``start_accounts`` has started."""
    if isinstance(accounts, HtpasswdAccounts):
        accounts.stop()


def _passwords(accounts: AccountSettings) -> Passwords:
    if accounts.htpasswd is None:
        raise ConfigError(["[accounts] htpasswd: needed by backend htpasswd"])
    return read_passwords(accounts.htpasswd)
