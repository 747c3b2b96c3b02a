"""
Parsing Twisted's endpoint descriptions: Twisted validates them, paths are made absolute.

A description that passes is one that ``serverFromString`` accepts when the daemon starts,
whatever the current directory.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.internet.endpoints import serverFromString

from middlewared.config.parsers import InvalidValue, parse_each

# The arguments of an endpoint type that are file names: by position (the type is 0) or by name.
_FILES: dict[str, frozenset[int | str]] = {
    "unix": frozenset({1, "address"}),
    "ssl": frozenset({2, 3, 7, 8, "privateKey", "certKey", "extraCertChain", "dhParameters"}),
    "tls": frozenset({1, "path"}),
}
INTERFACE_POSITION = {"tcp": 2, "tcp6": 3, "ssl": 5}
"""The position of the address to listen at, unless it is named (interface=)."""

_ARGUMENT = re.compile(r"(?:\\.|[^:\\])+")
_NAMED = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)
_PORT = re.compile(r"(?:tcp6?|ssl):(?:port=)?([0-9]+)")


def endpoints(written: str, base: Path) -> tuple[str, ...]:
    """Endpoint descriptions, one per line; file names in them are resolved against ``base``."""
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    return parse_each(lines, lambda line: _validated(_absolute(line, base)))


def arguments(description: str) -> dict[int | str, str]:
    """A description's arguments without quoting: by position (the type is 0) or by name."""
    found: dict[int | str, str] = {}
    for position, argument in enumerate(_ARGUMENT.findall(description)):
        named = _NAMED.fullmatch(argument)
        key, value = (named[1], named[2]) if named else (position, argument)
        found[key] = _unquoted(value)
    return found


def has_fixed_port(description: str) -> bool:
    """Whether two listeners with this description would be at the same address."""
    match = _PORT.match(description)
    return match is None or int(match[1]) != 0


def behind_proxy(description: str) -> bool:
    """Whether each connection begins with a header of the PROXY protocol."""
    return arguments(description)[0] == "haproxy"


def is_local(description: str) -> bool:
    """Whether only this host can connect; a socket of systemd may be open to others."""
    if behind_proxy(description):
        return is_local(description.partition(":")[2])
    given = arguments(description)
    if given[0] == "unix":
        return True
    interface = given.get(
        INTERFACE_POSITION.get(str(given[0]), "interface"), given.get("interface", "")
    )
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return interface == "localhost"


def _absolute(description: str, base: Path) -> str:
    """The same description with each relative file name joined to ``base``."""
    kind, _, rest = description.partition(":")
    if kind == "haproxy":
        return f"haproxy:{_absolute(rest, base)}"
    files = _FILES.get(kind, frozenset())
    arguments = _ARGUMENT.findall(description) if files else [description]
    for position, argument in enumerate(arguments):
        named = _NAMED.fullmatch(argument)
        if named and named[1] in files:
            arguments[position] = f"{named[1]}={_join(base, named[2])}"
        elif not named and position in files:
            arguments[position] = _join(base, argument)
    return ":".join(arguments)


def _join(base: Path, quoted: str) -> str:
    path = str(base / _unquoted(quoted))
    return re.sub(r"([\\:=])", r"\\\1", path)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _validated(description: str) -> str:
    kind = description.partition(":")[0]
    port = _PORT.match(description)
    if port and int(port[1]) > 65535:
        raise InvalidValue("must have a port from 0 to 65535")
    try:
        serverFromString(None, description)
    except (OSError, SSL.Error, crypto.Error) as e:
        what = e.strerror if isinstance(e, OSError) else "not in PEM form"
        raise InvalidValue(f"must name a usable key and certificate ({what})") from None
    except (KeyError, IndexError):
        # A socket that systemd passes exists only when systemd starts the daemon.
        if kind != "systemd" or not re.search(r"domain=(INET6?|UNIX)(:|$)", description):
            raise InvalidValue("must be a Twisted endpoint description") from None
    except (ValueError, TypeError, AttributeError, RuntimeError):
        raise InvalidValue(
            "must be a Twisted endpoint description, like tcp:8080:interface=127.0.0.1"
        ) from None
    return description
