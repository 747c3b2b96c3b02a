"""
How Twisted endpoint descriptions are read: judged by Twisted itself, paths made absolute.

The one invariant: a description that passes is one that ``serverFromString`` takes when
the daemon starts, from whatever directory.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.internet.endpoints import serverFromString

from middlewared.config.parsers import Wrong, every

# Which arguments of an endpoint type are file names: by place (the type is 0) or by name.
_FILES: dict[str, frozenset[int | str]] = {
    "unix": frozenset({1, "address"}),
    "ssl": frozenset({2, 3, 7, 8, "privateKey", "certKey", "extraCertChain", "dhParameters"}),
    "tls": frozenset({1, "path"}),
}
# Where an endpoint type names the address to listen at, if not as interface=.
_INTERFACE = {"tcp": 2, "tcp6": 2, "ssl": 5}
_ARGUMENT = re.compile(r"(?:\\.|[^:\\])+")
_NAMED = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)
_PORT = re.compile(r"(?:tcp6?|ssl):(?:port=)?([0-9]+)")


def endpoints(written: str, base: Path) -> tuple[str, ...]:
    """Endpoint descriptions, one on each line; file names in them hang on ``base``."""
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    return every(lines, lambda line: _judged(_absolute(line, base)))


def arguments(description: str) -> dict[int | str, str]:
    """What a description says, without its quoting: by place (the type is 0) or by name."""
    found: dict[int | str, str] = {}
    for place, argument in enumerate(_ARGUMENT.findall(description)):
        named = _NAMED.fullmatch(argument)
        key, value = (named[1], named[2]) if named else (place, argument)
        found[key] = _unquoted(value)
    return found


def fixed_port(description: str) -> bool:
    """Whether two listeners with this same description are in each other's way."""
    match = _PORT.match(description)
    return match is None or int(match[1]) != 0


def behind_proxy(description: str) -> bool:
    """Whether each connection begins with a header of the PROXY protocol."""
    return arguments(description)[0] == "haproxy"


def local(description: str) -> bool:
    """Whether only this host can connect; what systemd passes may be open to others."""
    if behind_proxy(description):
        return local(description.partition(":")[2])
    said = arguments(description)
    if said[0] == "unix":
        return True
    interface = said.get(_INTERFACE.get(str(said[0]), "interface"), said.get("interface", ""))
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
    for place, argument in enumerate(arguments):
        named = _NAMED.fullmatch(argument)
        if named and named[1] in files:
            arguments[place] = f"{named[1]}={_join(base, named[2])}"
        elif not named and place in files:
            arguments[place] = _join(base, argument)
    return ":".join(arguments)


def _join(base: Path, quoted: str) -> str:
    path = str(base / _unquoted(quoted))
    return re.sub(r"([\\:=])", r"\\\1", path)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _judged(description: str) -> str:
    kind = description.partition(":")[0]
    port = _PORT.match(description)
    if port and int(port[1]) > 65535:
        raise Wrong("must have a port from 0 to 65535")
    try:
        serverFromString(None, description)
    except (OSError, SSL.Error, crypto.Error) as e:
        what = e.strerror if isinstance(e, OSError) else "not in PEM form"
        raise Wrong(f"must name a key and a certificate that can be used ({what})") from None
    except (KeyError, IndexError):
        # A socket that systemd passes is there only when systemd starts us.
        if kind != "systemd" or not re.search(r"domain=(INET6?|UNIX)(:|$)", description):
            raise Wrong("must be an endpoint description of Twisted") from None
    except (ValueError, TypeError, AttributeError, RuntimeError):
        raise Wrong(
            "must be an endpoint description of Twisted, like tcp:8080:interface=127.0.0.1"
        ) from None
    return description
