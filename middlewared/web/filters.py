"""
Requests that can be refused by their bytes, before anything is parsed.

To parse a request and to route it costs about 150 microseconds, which a flood makes the
daemon pay as often as it likes. A filter looks at the bytes first, for a tenth of that, and
may refuse what is plain: one whole request, of a known length, in the usual form.
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias, TypedDict, Unpack

import attrs

from middlewared.clock import Clock
from middlewared.web.networks import Address, client_address
from middlewared.web.replies import Reply, head_of
from middlewared.web.settings import WebSettings

PLAIN_START = b"POST /api/"
MOST_HEAD_BYTES = 8192

_HEAD_END = b"\r\n\r\n"
# What changes how a body is framed or a request is answered; for the parser to deal with.
_UNUSUAL = re.compile(rb"(?i)\r\n(?:transfer-encoding|expect|upgrade|forwarded|[ \t])")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)")
_FORWARDED_FOR = re.compile(rb"(?i)\r\nx-forwarded-for:([^\r\n]*)")
_CLOSE = re.compile(rb"(?i)\r\nconnection:[^\r\n]*close")


class Early(enum.Enum):
    """What the bytes of a request allow to decide before they are parsed."""

    SERVE = "serve"
    """Parse and serve them."""
    WAIT = "wait"
    """They are the beginning of a request that may be refused once it is whole."""


@attrs.frozen
class RefusedEarly:
    """The bytes are one request, which was refused: ``reply`` is to be sent."""

    reply: bytes
    close: bool


@attrs.frozen
class Plain:
    """One whole request in the usual form; ``head`` has its last line end."""

    head: bytes
    body: bytes

    @property
    def is_json(self) -> bool:
        """Whether the body looks like a JSON object; else it is a form."""
        return self.body.startswith(b"{")

    @property
    def forwarded_for(self) -> tuple[str, ...]:
        """The X-Forwarded-For headers."""
        return tuple(value.decode("latin-1") for value in _FORWARDED_FOR.findall(self.head))

    @property
    def wants_close(self) -> bool:
        """Whether the client wants its connection closed after the reply."""
        return _CLOSE.search(self.head) is not None


Refusal: TypeAlias = Callable[[float], Reply]
"""Gives the reply that refuses a request, from the milliseconds that it took."""


class FilterParts(TypedDict):
    """
    What every filter needs.

    ``settings`` gives those of the moment; ``closing``: whether each connection is to be
    closed with its next answer; ``http_request`` is notified of route, method, status and
    seconds of each refusal.
    """

    clock: Clock
    settings: Callable[[], WebSettings]
    closing: Callable[[], bool]
    http_request: Callable[[str, str, int, float], None]


class PlainFilter(ABC):
    """Refuses plain requests of one route."""

    route: str

    def __init__(self, **parts: Unpack[FilterParts]) -> None:
        self._clock = parts["clock"]
        self._settings = parts["settings"]
        self._closing = parts["closing"]
        self._http_request = parts["http_request"]
        self.request_line = b"POST /api/" + self.route.encode()
        self._target = re.compile(re.escape(self.request_line) + rb"(?:/[^ ]*)? HTTP/1\.1\r\n")

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether there is a reason to look at requests now; cheap."""

    @abstractmethod
    def _refusal(self, plain: Plain, peer: str | None) -> Refusal | None:
        """How a request is refused; None: it is to be served."""

    def early(self, data: bytes, peer: str | None) -> RefusedEarly | Early:
        """
        Refuse what ``data`` asks for, if it is to be refused.

        :param data: what a connection received while no request was under way on it.
        :param peer: the connection's own address; None on a unix socket.
        """
        began_at = self._clock.seconds()
        plain = read_plain(data, self._target, self._settings().max_body_bytes)
        if not isinstance(plain, Plain):
            return plain
        refusal = self._refusal(plain, peer)
        if refusal is None:
            return Early.SERVE
        close = self._closing() or plain.wants_close
        took_s = self._clock.seconds() - began_at
        status, reply = self._written(refusal, took_s, close)
        self._http_request(self.route, "POST", status, took_s)
        return RefusedEarly(reply, close)

    def _written(self, refusal: Refusal, took_s: float, close: bool) -> tuple[int, bytes]:
        """The status of the reply, and its bytes."""
        reply = refusal(took_s * 1000)
        return reply.status, head_of(reply, close=close) + reply.body

    def _address(self, plain: Plain, peer: str | None) -> Address | None:
        """The client's own address, seen through trusted proxies."""
        return client_address(peer, plain.forwarded_for, self._settings().trusted_proxies)


def read_plain(data: bytes, target: re.Pattern[bytes], max_body_bytes: int) -> Plain | Early:
    """The request in ``data``, if it is plain; ``target`` matches its request line."""
    head_end = data.find(_HEAD_END)
    if max(head_end, len(data) if head_end < 0 else 0) > MOST_HEAD_BYTES:
        return Early.SERVE
    if head_end < 0:
        return Early.WAIT
    head, body = data[: head_end + 2], data[head_end + 4 :]
    lengths = _LENGTH.findall(head)
    if len(lengths) != 1 or not target.match(head) or _UNUSUAL.search(head):
        return Early.SERVE
    missing = int(lengths[0]) - len(body)
    if missing > 0 and int(lengths[0]) <= max_body_bytes:
        return Early.WAIT
    if missing or body.startswith(b"--") or (body.startswith(b"{") and not _flat(body)):
        return Early.SERVE
    return Plain(head, body)


def _flat(body: bytes) -> bool:
    """Whether a JSON object has neither escapes nor objects in it."""
    return b"\\" not in body and body.count(b"{") == 1
