"""
libpq's parameters for connecting to each address of each host in a PostgreSQL URL.

libpq would resolve names in the reactor's thread, and would wait for a silent first host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from middlewared.errors import ConfigError, Problem
from middlewared.waiting import with_fair_timeout

_RESOLVE_TIMEOUT_S = 1.0
_DEFAULTS = {
    "application_name": "middlewared",
    # A standby cannot be used: registrations are written.
    "target_session_attrs": "read-write",
    # A host that vanished is noticed on an idle connection in about 10 s.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "client_encoding": "utf8",
    # libpq would look for Kerberos credentials, in the reactor's thread.
    "gssencmode": "disable",
}


def parse_url(url: str, statement_timeout_ms: int) -> Sequence[Mapping[str, str]]:
    """
    The parameters for each host of a ``postgresql://`` URL, in its order.

    :raises ConfigError: libpq does not understand the URL.
    """
    try:
        given = parse_dsn(url)
    except ProgrammingError as error:
        # libpq's text may quote the URL with its password.
        raise ConfigError([Problem("database", "url", "not a PostgreSQL URL")]) from error
    common = {**_DEFAULTS, **given}
    limit = f"-c statement_timeout={statement_timeout_ms}"
    common["options"] = f"{limit} {given.get('options', '')}".strip()
    common.pop("connect_timeout", None)  # ignored by libpq's asynchronous connect
    names = common.pop("host", "").split(",")
    addresses = _one_per_host(common.pop("hostaddr", ""), len(names))
    ports = _one_per_host(common.pop("port", ""), len(names))
    hosts = []
    for name, address, port in zip(names, addresses, ports, strict=True):
        own = {"host": name, "hostaddr": address, "port": port}
        hosts.append({**common, **{key: value for key, value in own.items() if value}})
    return hosts


def _one_per_host(text: str, count: int) -> Sequence[str]:
    """A value for each host; a single value is for all hosts, as in libpq."""
    values = text.split(",")
    if len(values) == 1:
        return values * count
    if len(values) != count:
        what = "each host needs its port, or all the same"
        raise ConfigError([Problem("database", "url", what)])
    return values


async def resolve_host(reactor: Any, host: Mapping[str, str]) -> Sequence[Mapping[str, str]]:
    """The parameters for each address of a host; none if its name is not resolved in time."""
    name = host.get("host", "")
    if "hostaddr" in host or not name or name.startswith(("/", "@")):
        return [host]
    if isIPAddress(name) or isIPv6Address(name):
        return [{**host, "hostaddr": name}]
    try:
        addresses = await resolve_name(reactor, name, _RESOLVE_TIMEOUT_S)
    except TimeoutError:
        return []
    return [{**host, "hostaddr": address} for address in addresses]


async def resolve_name(reactor: Any, name: str, timeout_s: float) -> list[str]:
    """
    The addresses of a host name; none if it is unknown.

    :raises TimeoutError: the name server did not answer in time.
    """
    receiver = _Addresses()
    reactor.nameResolver.resolveHostName(receiver, name)
    return await with_fair_timeout(receiver.complete, timeout_s, reactor)


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects the addresses of one name."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self.complete: Deferred[list[str]] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing is known yet."""

    def addressResolved(self, address: IAddress) -> None:
        self._found.append(address.host)

    def resolutionComplete(self) -> None:
        if not self.complete.called:
            self.complete.callback(self._found)
