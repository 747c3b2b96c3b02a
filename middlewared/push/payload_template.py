"""
Payloads of an app's own: a JSON document whose texts have placeholders.

A text that is one placeholder alone becomes a JSON value of its type, as Apple's pushes carry
it; Google's carry texts only. Rendering cannot fail: what can be wrong is found at the load.
"""

from __future__ import annotations

import difflib
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import TypeAlias, TypeVar

import attrs

from middlewared.errors import ConfigError, Problem
from middlewared.model import Platform

MAX_APPLE_BYTES = 5_120
"""Apple's limit for VoIP pushes (for others it is 4,096)."""
MAX_GOOGLE_BYTES = 4_096
"""Google's limit for the keys and values of a message."""

_PLACEHOLDER = re.compile(r"\{([a-z][a-z_]*)\}")
_MOST_BYTES = 65_536
# firebase.google.com/docs/reference/fcm/rest/v1/projects.messages, "data"
_RESERVED = re.compile(r"from|message_type|google.*|gcm\..*")

Values: TypeAlias = Mapping[str, str | int | float]
"""What the placeholders stand for; ``message_start_time`` is a float."""
T = TypeVar("T")

# As long as each can be, the name of the caller apart, which is shortened.
_LONGEST: Values = {
    "unique_key": "01234567-89ab-cdef-0123-456789abcdef",
    "phonenumber": "+" + "1" * 31,
    "caller_id": "",
    "response_api": "",
    "message_start_time": 1575988800.1234567,
    "attempt": 100,
    "call_id": "c" * 255,
    "sip_user_id": "9" * 128,
}


@attrs.frozen
class Slot:
    """The place of a value. ``alone``: the whole of a JSON value, else a part of a text."""

    name: str
    alone: bool = False

    def json(self, values: Values) -> str:
        """What stands there in JSON."""
        value = values[self.name]
        if self.alone:
            return quoted(value) if isinstance(value, str) else repr(value)
        return quoted(self.text(values))[1:-1]

    def text(self, values: Values) -> str:
        """What stands there in a text: the start time has 7 decimals, as apps parse it."""
        value = values[self.name]
        return f"{value:.7f}" if isinstance(value, float) else str(value)


@attrs.frozen
class PayloadTemplate:
    """
    A template that was loaded.

    :ivar source: its text; two with the same are equal.
    """

    source: str
    _pieces: Sequence[str | Slot] = attrs.field(eq=False, repr=False)
    _data: Mapping[str, Sequence[str | Slot]] = attrs.field(eq=False, repr=False)

    @property
    def names(self) -> frozenset[str]:
        """The placeholders that it has."""
        return frozenset(each.name for each in self._pieces if isinstance(each, Slot))

    def apple(self, values: Callable[[str], Values], caller_id: str) -> bytes:
        """The payload for Apple, with as much of ``caller_id`` as fits."""
        return fitting(
            lambda name: self._json(values(name)), len, caller_id, at_most=MAX_APPLE_BYTES
        )

    def google(self, values: Callable[[str], Values], caller_id: str) -> dict[str, str]:
        """The data for Google, with as much of ``caller_id`` as fits."""
        return fitting(
            lambda name: self._texts(values(name)), data_size, caller_id, at_most=MAX_GOOGLE_BYTES
        )

    def _json(self, values: Values) -> bytes:
        pieces = (each if isinstance(each, str) else each.json(values) for each in self._pieces)
        return "".join(pieces).encode("utf-8", "replace")

    def _texts(self, values: Values) -> dict[str, str]:
        return {
            key: "".join(each if isinstance(each, str) else each.text(values) for each in pieces)
            for key, pieces in self._data.items()
        }


def fitting(make: Callable[[str], T], size: Callable[[T], int], name: str, *, at_most: int) -> T:
    """The result of ``make`` for the longest prefix of ``name`` with which it fits, or for ""."""
    made = make(name)
    if size(made) <= at_most:
        return made
    lengths = range(len(name))
    count = bisect_right(lengths, at_most, key=lambda n: size(make(name[:n])))
    return make(name[: max(count - 1, 0)])


def data_size(data: Mapping[str, str]) -> int:
    """The bytes of the keys and values of a message of Google's."""
    return sum(len(text.encode("utf-8", "replace")) for pair in data.items() for text in pair)


def load_template(path: Path, platform: Platform, response_api: str) -> PayloadTemplate:
    """
    Read a template and render it once.

    :param response_api: the longest value that its placeholder will have.
    :raises ConfigError: with every problem of the key payload.
    """
    source = _read(path)
    try:
        document = json.loads(source)
    except (ValueError, RecursionError):
        raise _faulty(path, ["is not JSON"]) from None
    if not isinstance(document, dict):
        raise _faulty(path, ["is not a JSON object"])
    problems = list(_placeholder_problems(document))
    if platform is not Platform.APNS:
        problems += _data_problems(document)
    if problems:
        raise _faulty(path, problems)
    data = {key: _text(value) for key, value in document.items() if isinstance(value, str)}
    template = PayloadTemplate(source, _merged(_pieces(document)), data)
    if fault := _size_problem(template, platform, {**_LONGEST, "response_api": response_api}):
        raise _faulty(path, [fault])
    return template


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _faulty(path, [(error.strerror or "cannot be read").lower()]) from error
    if len(content) > _MOST_BYTES:
        raise _faulty(path, [f"is larger than {_MOST_BYTES} bytes"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _faulty(path, [f"is not UTF-8 text (byte {error.start + 1})"]) from None


def _faulty(path: Path, problems: Sequence[str]) -> ConfigError:
    return ConfigError(Problem("", "payload", f"{path} {what}") for what in problems)


def _placeholder_problems(value: object) -> Iterator[str]:
    """Placeholders that mean nothing, anywhere in the texts of ``value``."""
    if isinstance(value, dict):
        for each in value.values():
            yield from _placeholder_problems(each)
    elif isinstance(value, list):
        for each in value:
            yield from _placeholder_problems(each)
    elif isinstance(value, str):
        for name in _PLACEHOLDER.findall(value):
            if name not in _LONGEST:
                nearest = difflib.get_close_matches(name, _LONGEST, n=1, cutoff=0.0)[0]
                yield f"has the unknown placeholder {{{name}}}; the nearest is {{{nearest}}}"


def _data_problems(document: Mapping[str, object]) -> Iterator[str]:
    """Why Google would refuse the keys and values of a message."""
    for key, value in document.items():
        if not isinstance(value, str):
            yield f"has a value that is no text at {key!r}: Google takes texts only"
        if _RESERVED.fullmatch(key):
            yield f"has the key {key!r}, which Google reserves"


def _size_problem(template: PayloadTemplate, platform: Platform, values: Values) -> str:
    if platform is Platform.APNS:
        size, most = len(template.apple(lambda _: values, "")), MAX_APPLE_BYTES
    else:
        size, most = data_size(template.google(lambda _: values, "")), MAX_GOOGLE_BYTES
    if size <= most:
        return ""
    return f"may become {size} bytes without the caller's name; the most are {most}"


def _pieces(value: object) -> Iterator[str | Slot]:
    """The JSON of ``value`` in pieces, without blanks."""
    if isinstance(value, dict):
        for number, (key, each) in enumerate(value.items()):
            yield f"{',' if number else '{'}{quoted(key)}:"
            yield from _pieces(each)
        yield "}" if value else "{}"
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield "," if number else "["
            yield from _pieces(each)
        yield "]" if value else "[]"
    elif isinstance(value, str):
        parts = _text(value)
        if len(parts) == 1 and isinstance(parts[0], Slot):
            yield attrs.evolve(parts[0], alone=True)
            return
        yield '"'
        for part in parts:
            yield part if isinstance(part, Slot) else quoted(part)[1:-1]
        yield '"'
    else:
        yield json.dumps(value)


def _text(text: str) -> Sequence[str | Slot]:
    """A text in pieces; the placeholders are every other one."""
    parts = _PLACEHOLDER.split(text)
    pieces = [Slot(part) if number % 2 else part for number, part in enumerate(parts)]
    return [piece for piece in pieces if piece != ""]


def _merged(pieces: Iterator[str | Slot]) -> Sequence[str | Slot]:
    """The same with neighbouring texts as one."""
    merged: list[str | Slot] = []
    for piece in pieces:
        if merged and isinstance(piece, str) and isinstance(merged[-1], str):
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
