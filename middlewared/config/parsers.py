"""
A parser for each kind of setting, and how a setting is declared.

A parser returns a usable value or raises :class:`InvalidValue`, whose text describes what is
expected and never repeats what was written.
"""

from __future__ import annotations

import glob
import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

import attrs
import psycopg2
from psycopg2.extensions import parse_dsn

from middlewared.booleans import parse_boolean
from middlewared.networks import UNIX, Network

T = TypeVar("T")
Parse: TypeAlias = Callable[[str, Path], T]
"""Parses the text of a setting; relative paths are resolved against the given directory."""

_DAY_MS = 24 * 60 * 60 * 1000


class InvalidValue(ValueError):
    """The text is not a value of this kind; the message describes one that is."""


@attrs.frozen
class Setting:
    """
    What the reader must know about a key: how to parse it, and its default as an ini file has it.

    ``key``: its name in the ini file; "": that of the attribute. ``secret``: its text may be or
    hold a secret.
    """

    parse: Parse[object]
    default: str
    key: str = ""
    secret: bool = False

    def default_value(self) -> object:
        """The default with paths relative to the current directory."""
        return self.parse(self.default, Path())


def setting(
    parse: Parse[T],
    default: str,
    *,
    key: str = "",
    secret: bool = False,
    show: Callable[[T], str] = repr,
    converter: attrs.Converter[T, T] | None = None,
) -> T:
    """
    Declare a key of a section as a field of an attrs class.

    :param key: its name in the ini file; "": that of the attribute.
    :param secret: the value is hidden in every text form.
    :param show: how the text form shows a value that may hold a secret.
    """
    declared = Setting(parse, default, key, secret or show is not repr)
    field: Any = attrs.field(
        factory=declared.default_value,
        repr=hidden if secret else show,
        converter=converter,
        metadata={"setting": declared},
    )
    return cast("T", field)


def hidden(value: object) -> str:
    """The text form of a secret: only whether there is one."""
    return "'***'" if value else "''"


def text(written: str, _base: Path) -> str:
    """Any text on one line; "" means that it is not set."""
    if any(ord(c) < 32 or ord(c) == 127 for c in written):
        raise InvalidValue("must be one line without control characters")
    return written


def path(written: str, base: Path) -> Path | None:
    """A file's name; None when not set. Whether it can be used is checked by its reader."""
    return base / text(written, base) if written else None


def integer(low: int, high: int) -> Parse[int]:
    """A whole number from ``low`` to ``high``."""

    def parse(written: str, _base: Path) -> int:
        # At most 18 digits, because int() takes quadratic time.
        value = int(written) if re.fullmatch(r"-?[0-9]{1,18}", written) else None
        if value is None or not low <= value <= high:
            raise InvalidValue(f"must be a whole number from {low} to {high}")
        return value

    return parse


def seconds(low_ms: int) -> Parse[float]:
    """Seconds, from a whole number of milliseconds of at most a day."""
    milliseconds = integer(low_ms, _DAY_MS)
    return lambda written, base: milliseconds(written, base) / 1000


duration = seconds(1)
duration_or_0 = seconds(0)


def optional_duration(written: str, base: Path) -> float | None:
    """A duration; "": none, another one counts."""
    return duration(written, base) if written else None


count = integer(1, 10_000_000)
account = integer(0, 10**18 - 1)


def analytics_label(written: str, _base: Path) -> str:
    """A label of FCM's delivery reports (FcmOptions.analytics_label); "": none."""
    if written and not re.fullmatch(r"[a-zA-Z0-9\-_.~%]{1,50}", written):
        raise InvalidValue("must be at most 50 characters of a-z, A-Z, 0-9 and -_.~%")
    return written


def pattern(written: str, base: Path) -> re.Pattern[str] | None:
    """A regular expression of Python's; None when not set."""
    try:
        return re.compile(text(written, base)) if written else None
    except (re.error, RecursionError, OverflowError):
        raise InvalidValue("must be a regular expression, as Python's re has them") from None


def digits(written: str, _base: Path) -> str:
    """A number that is only compared; "": none."""
    if not re.fullmatch(r"[0-9]{0,20}", written):
        raise InvalidValue("must be at most 20 digits")
    return written


def boolean(written: str, _base: Path) -> bool:
    """yes or no, or another word for them; on and off too, as configparser takes them."""
    value = {"on": True, "off": False}.get(written.lower(), parse_boolean(written))
    if value is None:
        raise InvalidValue("must be yes or no")
    return value


def choice(*names: T) -> Parse[T]:
    """One of ``names``, in lower case."""
    by_text = {str(name): name for name in names}

    def parse(written: str, _base: Path) -> T:
        value = by_text.get(written.lower())
        if value is None:
            raise InvalidValue("must be one of " + ", ".join(by_text))
        return value

    return parse


def split_list(written: str) -> list[str]:
    """The entries of a list, which are separated by commas, blanks or line ends."""
    return [entry for entry in re.split(r"[\s,]+", written) if entry]


def patterns(written: str, base: Path) -> tuple[str, ...]:
    """Patterns of file names, as the shell has them."""
    return tuple(os.path.join(glob.escape(str(base)), entry) for entry in split_list(written))


def names(written: str, _base: Path) -> tuple[str, ...]:
    """Names of users."""
    return tuple(split_list(written))


def parse_each(entries: list[str], parse: Callable[[str], T]) -> tuple[T, ...]:
    """All ``entries`` parsed. :raises InvalidValue: names every entry that is invalid."""
    values: list[T] = []
    wrong: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            values.append(parse(entry))
        except InvalidValue as e:
            wrong.append(f"entry {number} {e}")
    if wrong:
        raise InvalidValue("; ".join(wrong))
    return tuple(values)


def networks(written: str, _base: Path) -> tuple[Network, ...]:
    """IPv4 and IPv6 networks or addresses without host bits, and ``unix`` for unix sockets."""
    return parse_each(split_list(written), _network)


def _network(entry: str) -> Network:
    if entry.lower() == UNIX:
        return UNIX
    try:
        return ipaddress.ip_network(entry)
    except ValueError as e:
        hint = " (it has host bits set)" if "host bits" in str(e) else ""
        raise InvalidValue(f"must be an IPv4 or IPv6 network or unix{hint}") from None


def nodes(written: str, _base: Path) -> tuple[tuple[str, int], ...]:
    """``host:port`` entries; an IPv6 address is in brackets."""
    return parse_each(split_list(written), _node)


def _node(entry: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+)):([0-9]{1,5})", entry, re.ASCII)
    if not match or not 1 <= int(match[3]) <= 65535:
        raise InvalidValue("must be host:port with a port from 1 to 65535")
    return match[1] or match[2], int(match[3])


def node(written: str, _base: Path) -> tuple[str, int] | None:
    """One ``host:port``, as in :func:`nodes`; None when not set."""
    return _node(written) if written else None


def _parse_url(written: str, schemes: tuple[str, ...]) -> SplitResult:
    expected = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        url = urlsplit(written)
        usable = bool(url.hostname) and url.port != 0  # the port raises unless it is a number
    except ValueError:
        what = f"must be an absolute URL ({expected}host...) with a valid port"
        raise InvalidValue(what) from None
    if url.scheme not in schemes or not usable:
        raise InvalidValue(f"must be an absolute URL that begins with {expected} and names a host")
    if not re.fullmatch(r"[!-~]+", written) or "\\" in written or url.fragment:
        raise InvalidValue(
            "must be a URL of ASCII characters without blanks, backslashes and #fragment"
        )
    return url


def web_url(*schemes: str, optional: bool = False, query: bool = False) -> Parse[str]:
    """
    An absolute URL without user and password, of one of ``schemes``.

    :param optional: "" is also accepted, and means that it is not set.
    :param query: whether it may have a query, after which nothing can be appended.
    """

    def parse(written: str, _base: Path) -> str:
        if optional and not written:
            return ""
        parts = _parse_url(written, schemes)
        if "@" in parts.netloc:
            raise InvalidValue("must not contain a user or password")
        if parts.query and not query:
            raise InvalidValue("must be a URL without a query")
        return written

    return parse


def proxy_url(written: str, _base: Path) -> str:
    """``http://user:password@host:port`` or ""."""
    if not written:
        return ""
    parts = _parse_url(written, ("http",))
    if parts.port is None:
        raise InvalidValue("must name the proxy's port: http://host:port")
    if parts.path not in ("", "/") or parts.query:
        raise InvalidValue("must be a URL without path and query")
    return written


def url_path(written: str, _base: Path) -> str:
    """A path that is appended to a base URL."""
    if not re.fullmatch(r"/(?!/)[!-~]*", written) or "#" in written:
        raise InvalidValue("must be a path that begins with exactly one /")
    return written


def database_url(written: str, base: Path) -> str:
    """``sqlite:FILE`` (made absolute) or a PostgreSQL URL as libpq parses it."""
    scheme, _, rest = written.partition(":")
    if scheme == "sqlite":
        if not rest or rest.startswith(":") or re.match(r"//(?!/)", rest):
            raise InvalidValue("must name a file: sqlite:FILE")
        return f"sqlite:{path(rest, base)}"
    if scheme not in ("postgresql", "postgres"):
        raise InvalidValue("must begin with sqlite: or postgresql://")
    try:
        parts = parse_dsn(text(written, base))
    except psycopg2.ProgrammingError:
        # libpq's own text repeats parts of the URL, perhaps the password.
        raise InvalidValue(
            "must be a PostgreSQL URL as libpq parses it: postgresql://..."
        ) from None
    for port in filter(None, parts.get("port", "").split(",")):
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise InvalidValue("must have ports from 1 to 65535")
    if not parts.get("dbname"):
        raise InvalidValue("must name a database: postgresql://host:port/DATABASE")
    return written


def show_url(written: str) -> str:
    """A URL's text form without its passwords, wherever they are in it."""
    without_user = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", written)
    return repr(re.sub(r"(?i)(password=)[^&]*", r"\1***", without_user))
