"""
Which implementation of a seam the configuration chooses.

The configuration names a backend, which is chosen here; no room knows of the alternatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from middlewared.accounts.htpasswd import HtpasswdAccounts, Passwords, read_passwords
from middlewared.accounts.none import NoAccounts
from middlewared.accounts.open import OpenAccounts
from middlewared.accounts.voipgrid import VoipgridAccounts, VoipgridSettings
from middlewared.clock import wall_clock
from middlewared.config import AccountSettings, Config, RedisSettings
from middlewared.devices.interface import DaemonTable, DeviceRegistry
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
from middlewared.errors import ConfigError, Problem
from middlewared.model import LateAnswer
from middlewared.outgoing.interface import HttpClient, TcpEndpoints
from middlewared.outgoing.proxy import Proxy, ProxyEndpoints
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.apns.apple_credentials import load_certificate
from middlewared.rendezvous.memory import MemoryRendezvous
from middlewared.rendezvous.redis.redis_rendezvous import RedisRendezvous

AnyRendezvous: TypeAlias = MemoryRendezvous | RedisRendezvous
Accounts: TypeAlias = VoipgridAccounts | HtpasswdAccounts | NoAccounts | OpenAccounts


class Registry(DeviceRegistry, DaemonTable, Protocol):
    """A registry that is opened and closed, with the table of the daemons that share it."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def make_registry(config: Config, *, reactor: Any) -> Registry:
    """The device registry of ``[database]``."""
    database = config.database
    path = database.sqlite_file
    if path is not None:
        return SqliteRegistry(path=path, reactor=reactor)
    return PostgresRegistry(url=database.url, reactor=reactor, pool_size=database.pool_size)


def make_rendezvous(
    config: Config, *, reactor: Any, table: DaemonTable, late: Callable[[LateAnswer], None]
) -> AnyRendezvous:
    """
    The rendezvous of ``[redis]``; its connections never go through the proxy.

    :param table: where daemons report to each other whether they have Redis.
    :param late: notified of answers that come after their call has timed out.
    :raises ConfigError: a file for TLS cannot be used.
    """
    redis = config.redis
    if not redis.nodes:
        return MemoryRendezvous(clock=reactor, late=late)
    return RedisRendezvous(
        clock=reactor,
        endpoints=DirectEndpoints(reactor),
        nodes=redis.nodes,
        cluster=redis.cluster,
        username=redis.username,
        password=redis.password,
        tls=redis_tls(redis) if redis.tls else None,
        table=table,
        late=late,
    )


def redis_tls(redis: RedisSettings) -> ClientTLS:
    """
    Which certificates Redis may have, and which one we present.

    :raises ConfigError: a file cannot be used.
    """
    certificate = None
    if redis.certificate is not None:
        certificate = load_certificate(redis.certificate, now=wall_clock()).certificate
    return ClientTLS(trust=load_trust(redis.ca_file), certificate=certificate)


async def start_rendezvous(rendezvous: AnyRendezvous) -> None:
    """Connect a shared one; it goes on trying when Redis is away."""
    if isinstance(rendezvous, RedisRendezvous):
        await rendezvous.start()


async def stop_rendezvous(rendezvous: AnyRendezvous) -> None:
    """Tell all who wait, and disconnect."""
    if isinstance(rendezvous, RedisRendezvous):
        await rendezvous.stop()
    else:
        rendezvous.stop()


def redis_up(rendezvous: AnyRendezvous) -> bool | None:
    """Whether Redis answers; None: there is none."""
    return rendezvous.up if isinstance(rendezvous, RedisRendezvous) else None


def voipgrid_settings(accounts: AccountSettings) -> VoipgridSettings:
    """What the account API's client takes from the configuration."""
    return VoipgridSettings(
        base_url=accounts.base_url,
        profile_path=accounts.profile_path,
        timeout_s=accounts.timeout_s,
        cache_s=accounts.cache_s,
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


def accounts_up(accounts: Accounts) -> bool | None:
    """Whether the account API's last answer was usable; None: none is asked."""
    return accounts.up if isinstance(accounts, VoipgridAccounts) else None


def _passwords(accounts: AccountSettings) -> Passwords:
    if accounts.htpasswd is None:
        raise ConfigError([Problem("accounts", "htpasswd", "needed by backend htpasswd")])
    return read_passwords(accounts.htpasswd)
