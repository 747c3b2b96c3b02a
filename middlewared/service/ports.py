"""
The ports the daemon listens at.

The one invariant: a port that cannot be had is named by its key in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from middlewared.config.endpoints import arguments
from middlewared.errors import MiddlewaredError

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn caps it."""

# The place of the backlog in a description that names no arguments; the type is 0.
_BACKLOG_PLACE = {"tcp": 3, "tcp6": 2, "ssl": 6, "unix": 3}


class PortDown(MiddlewaredError):
    """A configured port cannot be listened at; the text is a finished line."""


@attrs.frozen
class Face:
    """
    One listening face: ``key`` is where its endpoints stand in the configuration
    ("[http] listen"), ``name`` its word in the log, ``factory`` serves what connects.
    """

    key: str
    name: str
    endpoints: Sequence[str]
    factory: Any


async def listen(reactor: Any, face: Face) -> list[IListeningPort]:
    """
    Listen at all endpoints of ``face``.

    :raises PortDown: busy, not permitted, no such address, unreadable certificate, or a
        socket that systemd did not pass.
    """
    ports = []
    for description in face.endpoints:
        try:
            endpoint = serverFromString(reactor, with_backlog(description))
            ports.append(await endpoint.listen(face.factory))
        except (CannotListenError, OSError, ValueError, LookupError) as error:
            raise PortDown(f"{face.key}: cannot listen at {description}: {_why(error)}") from error
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
