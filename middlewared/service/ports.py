"""
The ports the daemon listens at.

A port that cannot be had is named by its key in the configuration. Unix sockets are for the
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
from middlewared.service.proxy_protocol import ProxiedFactory
from middlewared.web.settings import Network

_UNIX_MODE = "660"

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn caps it."""

MOST_ACCEPTS = 100
"""Connections that a port accepts in one turn of the reactor; the others wait in the backlog."""

# The place of the backlog in a description that names no arguments; the type is 0.
_BACKLOG_PLACE = {"tcp": 3, "tcp6": 2, "ssl": 6, "unix": 3}


@attrs.frozen
class Listener:
    """
    One listening face.

    ``section`` and ``key`` are where its endpoints stand in the configuration, ``name`` is its
    word in the log, ``factory`` serves what connects, and ``trusted`` gives the networks whose
    PROXY headers are believed.
    """

    section: str
    key: str
    name: str
    endpoints: Sequence[str]
    factory: Any
    trusted: Callable[[], Sequence[Network]] = tuple


async def listen(reactor: Any, face: Listener) -> list[IListeningPort]:
    """
    Listen at all endpoints of ``face``.

    :raises ConfigError: busy, not permitted, no such address, unreadable certificate, or a
        socket that systemd did not pass.
    """
    ports = []
    for description in face.endpoints:
        try:
            ports.append(await _listen(reactor, description, face))
        except (CannotListenError, OSError, ValueError, LookupError) as error:
            what = f"cannot listen at {description}: {_why(error)}"
            raise ConfigError([Problem(face.section, face.key, what)]) from error
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


async def _listen(reactor: Any, description: str, face: Listener) -> IListeningPort:
    factory = face.factory
    if behind_proxy(description):
        # Twisted's own endpoint believes everyone.
        description = description.partition(":")[2]
        factory = ProxiedFactory(served=factory, trusted=face.trusted)
    endpoint = serverFromString(reactor, with_backlog(_with_mode(description)))
    port: IListeningPort = await endpoint.listen(factory)
    bound_accepts(port)
    return port


def bound_accepts(port: Any) -> None:
    """
    Accept at most :data:`MOST_ACCEPTS` connections a turn at ``port``.

    Twisted raises its own number (``numberAccepts``) with each turn in which it was reached,
    so that under a flood of connections turns would take ever longer.
    """
    accept = port.doRead

    def do_read() -> Any:
        port.numberAccepts = min(port.numberAccepts, MOST_ACCEPTS)
        return accept()

    port.doRead = do_read


def _with_mode(description: str) -> str:
    """The mode of a unix socket that has none; Twisted's default lets everyone connect."""
    said = arguments(description)
    if said[0] != "unix" or "mode" in said or 2 in said:
        return description
    return f"{description}:mode={_UNIX_MODE}"


def addresses(name: str, ports: Sequence[Any]) -> str:
    """The addresses of a face for the log, the port numbers being the real ones."""
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
