"""
The ports the daemon listens at.

A port that cannot be opened is named by its key in the configuration. Unix sockets are for the
daemon's user and group unless configured otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from middlewared.config.endpoint_descriptions import arguments, behind_proxy
from middlewared.errors import ConfigError, Problem
from middlewared.networks import Network
from middlewared.service.proxy_protocol import ProxiedFactory

_UNIX_MODE = "660"

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn caps it."""

MOST_ACCEPTS = 100
"""Connections that a port accepts in one turn of the reactor; the others wait in the backlog."""

# The position of the backlog in a description without named arguments; the type is at 0.
_BACKLOG_PLACE = {"tcp": 3, "tcp6": 2, "ssl": 6, "unix": 3}


@attrs.frozen
class Listener:
    """
    What is served at some endpoints.

    ``section`` and ``key`` are where they are configured, ``name`` is their word in the log,
    ``factory`` serves connections, and ``trusted`` gives the networks whose PROXY headers are
    trusted.
    """

    section: str
    key: str
    name: str
    endpoints: Sequence[str]
    factory: Any
    trusted: Callable[[], Sequence[Network]] = tuple


async def listen(reactor: Any, listener: Listener) -> list[IListeningPort]:
    """
    Listen at all endpoints of ``listener``.

    :raises ConfigError: busy, not permitted, no such address, unreadable certificate, or a
        socket that systemd did not pass.
    """
    ports = []
    for description in listener.endpoints:
        try:
            ports.append(await _listen(reactor, description, listener))
        except (CannotListenError, OSError, ValueError, LookupError) as error:
            what = f"cannot listen at {description}: {_why(error)}"
            raise ConfigError([Problem(listener.section, listener.key, what)]) from error
    return ports


def with_backlog(description: str) -> str:
    """``description`` with our backlog, unless it has one; Twisted's own is 50."""
    kind, _, rest = description.partition(":")
    if kind == "haproxy":
        return f"haproxy:{with_backlog(rest)}"
    place = _BACKLOG_PLACE.get(kind)
    given = arguments(description)
    if place is None or place in given or "backlog" in given:
        return description
    return f"{description}:backlog={BACKLOG}"


async def _listen(reactor: Any, description: str, listener: Listener) -> IListeningPort:
    factory = listener.factory
    if behind_proxy(description):
        # Twisted's own endpoint believes every header.
        description = description.partition(":")[2]
        factory = ProxiedFactory(served=factory, trusted=listener.trusted)
    endpoint = serverFromString(reactor, with_backlog(_with_mode(description)))
    port: IListeningPort = await endpoint.listen(factory)
    bound_accepts(port)
    return port


def bound_accepts(port: Any) -> None:
    """
    Accept at most :data:`MOST_ACCEPTS` connections a turn at ``port``.

    Twisted raises its own limit (``numberAccepts``) after each turn that reached it, so under a
    flood of connections turns would take longer and longer.
    """
    accept = port.doRead

    def do_read() -> Any:
        port.numberAccepts = min(port.numberAccepts, MOST_ACCEPTS)
        return accept()

    port.doRead = do_read


def _with_mode(description: str) -> str:
    """Give a unix socket a mode unless it has one; Twisted's default lets everyone connect."""
    given = arguments(description)
    if given[0] != "unix" or "mode" in given or 2 in given:
        return description
    return f"{description}:mode={_UNIX_MODE}"


def addresses(name: str, ports: Sequence[Any]) -> str:
    """The addresses of a listener for the log, with the real port numbers."""
    return " ".join(f"{name}={_address(port.getHost())}" for port in ports)


def _address(host: Any) -> str:
    if hasattr(host, "port"):
        name = f"[{host.host}]" if ":" in host.host else host.host
        return f"{name}:{host.port}"
    return f"unix:{getattr(host, 'name', host)}"


def _why(error: Exception) -> str:
    if isinstance(error, LookupError):
        return "systemd passed no such socket"
    cause = error.socketError if isinstance(error, CannotListenError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause)
