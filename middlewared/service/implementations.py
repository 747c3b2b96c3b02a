"""
Which implementation of each seam the configuration chooses::

    devices     [database] url      in :mod:`.storage`: SqliteRegistry, PostgresRegistry
    history     [database] url      in :mod:`.storage`: SqliteHistory, PostgresHistory
    rendezvous  [redis] nodes       MemoryRendezvous, RedisRendezvous
    accounts    [accounts] backend  VoipgridAccounts, HtpasswdAccounts, OpenAccounts, NoAccounts
    push        [app:...]           in :mod:`.providers`: ApnsProvider, FcmProvider, LegacyProvider

No room knows the alternatives of another, and the configuration only names them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import attrs

from middlewared.accounts.htpasswd import HtpasswdAccounts, Passwords, read_passwords
from middlewared.accounts.interface import AccountBackend
from middlewared.accounts.none_and_open import NoAccounts, OpenAccounts
from middlewared.accounts.voipgrid import VoipgridAccounts, VoipgridSettings
from middlewared.clock import wall_clock
from middlewared.config import AccountSettings, Config, RedisSettings
from middlewared.devices.interface import DaemonHeartbeats
from middlewared.errors import ConfigError, Problem
from middlewared.model import LateAnswer
from middlewared.outgoing.interface import HttpClient, TcpEndpoints
from middlewared.outgoing.proxy import Proxy, ProxyEndpoints
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.apns.apple_credentials import load_certificate
from middlewared.rendezvous.interface import Rendezvous
from middlewared.rendezvous.memory import MemoryRendezvous
from middlewared.rendezvous.redis.redis_rendezvous import RedisRendezvous

Settings = TypeVar("Settings")


def choose_rendezvous(
    config: Config, *, reactor: Any, table: DaemonHeartbeats, late: Callable[[LateAnswer], None]
) -> Rendezvous:
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


def choose_endpoints(config: Config, *, reactor: Any) -> TcpEndpoints:
    """Where outgoing connections begin: directly, or through ``[http_proxy]``."""
    url = config.http_proxy.url
    if not url:
        return DirectEndpoints(reactor)
    return ProxyEndpoints(reactor=reactor, proxy=Proxy.from_url(url))


@attrs.frozen
class ChosenAccounts(Generic[Settings]):
    """
    The account backend of ``[accounts]``.

    ``settings`` reads what the backend takes from the configuration, or raises ConfigError.
    """

    name: str
    backend: AccountBackend[Settings]
    settings: Callable[[AccountSettings], Settings]

    def prepare(self, accounts: AccountSettings) -> Callable[[], None]:
        """
        Read what a reload changes; to choose another backend takes a restart.

        :return: puts it into use, and cannot fail.
        :raises ConfigError: the password file cannot be used.
        """
        if accounts.backend != self.name:
            return lambda: None
        return partial(self.backend.reconfigure, self.settings(accounts))


def choose_accounts(config: Config, *, reactor: Any, client: HttpClient) -> ChosenAccounts[Any]:
    """
    The account backend of ``[accounts]``.

    :raises ConfigError: the password file cannot be used.
    """
    accounts = config.accounts
    match accounts.backend:
        case "voipgrid" as name:
            voipgrid = VoipgridAccounts(client=client, clock=reactor, settings=_voipgrid(accounts))
            return ChosenAccounts(name, voipgrid, _voipgrid)
        case "htpasswd" as name:
            htpasswd = HtpasswdAccounts(reactor=reactor, settings=_passwords(accounts))
            return ChosenAccounts(name, htpasswd, _passwords)
        case "open" as name:
            return ChosenAccounts(name, OpenAccounts(), _no_settings)
        case "none" as name:
            return ChosenAccounts(name, NoAccounts(), _no_settings)


def _voipgrid(accounts: AccountSettings) -> VoipgridSettings:
    return VoipgridSettings(
        base_url=accounts.base_url,
        profile_path=accounts.profile_path,
        timeout_s=accounts.timeout_s,
        cache_s=accounts.cache_s,
        text_accounts=accounts.are_texts,
    )


def _passwords(accounts: AccountSettings) -> Passwords:
    if accounts.htpasswd is None:
        raise ConfigError([Problem("accounts", "htpasswd", "needed by backend htpasswd")])
    return read_passwords(accounts.htpasswd, text=accounts.are_texts)


def _no_settings(_: AccountSettings) -> None:
    return None
