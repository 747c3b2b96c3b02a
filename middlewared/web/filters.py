"""
Requests that can be refused by their bytes, before anything is parsed.

To parse a request and to route it costs about 150 microseconds, which a flood makes the
daemon pay as often as it likes. A filter reads the bytes first, for a tenth of that, and
may refuse what is plain: one whole request, of a known length, in the usual form.
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import attrs

from middlewared.calls.interface import Calls
from middlewared.clock import Clock
from middlewared.model import Outcome
from middlewared.web.client_address import Address, client_address
from middlewared.web.replies import Reply, head_of
from middlewared.web.settings import LiveSettings, WebSettings

PLAIN_START = b"POST /api/"
MAX_HEAD_BYTES = 8192

_HEAD_END = b"\r\n\r\n"
# What changes how a body is framed or a request is answered; the parser deals with it.
_UNUSUAL = re.compile(rb"(?i)\r\n(?:transfer-encoding|expect|upgrade|forwarded|[ \t])")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)")
_FORWARDED_FOR = re.compile(rb"(?i)\r\nx-forwarded-for:([^\r\n]*)")
_AUTHORIZATION = re.compile(rb"(?i)\r\nauthorization:[ \t]*([^\r\n]*)")
_CLOSE = re.compile(rb"(?i)\r\nconnection:[^\r\n]*close")

MakeReply: TypeAlias = Callable[[float], Reply]
"""Makes the reply that refuses a request, from the milliseconds that it took."""
ObserveRequest: TypeAlias = Callable[[str, str, int, float], None]
"""Counts a request: its route, method, status and seconds."""

ObservePbx: TypeAlias = Callable[[str, Outcome], None]
"""Counts a request of a PBX: the name of its section, or "", and the outcome."""


class NotRefused(enum.Enum):
    """What happens to the bytes of a request that a filter has not refused."""

    SERVE = "serve"
    """They are parsed and served."""
    WAIT = "wait"
    """They are the beginning of a request that may be refused once it is whole."""


@attrs.frozen
class EarlyRefusal:
    """The bytes are one request, which was refused: ``reply`` has to be sent."""

    reply: bytes
    close: bool


@attrs.frozen
class PlainRequest:
    """One whole request in the usual form; ``head`` includes its last line end."""

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
    def authorization(self) -> bytes:
        """The last Authorization header; b"": there is none."""
        values: list[bytes] = _AUTHORIZATION.findall(self.head)
        return values[-1].strip() if values else b""

    @property
    def wants_close(self) -> bool:
        """Whether the client wants its connection closed after the reply."""
        return _CLOSE.search(self.head) is not None

    def address(self, peer: str | None, settings: WebSettings) -> Address | None:
        """The client's own address, seen through trusted proxies."""
        return client_address(peer, self.forwarded_for, settings.trusted_proxies)


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class RequestFilter(ABC):
    """Refuses plain requests of one route."""

    route: ClassVar[str]
    _clock: Clock
    _settings: LiveSettings
    _observe_request: ObserveRequest
    _calls: Calls

    def __attrs_post_init__(self) -> None:
        self.request_line = b"POST /api/" + self.route.encode()
        self._target = re.compile(re.escape(self.request_line) + rb"(?:/[^ ]*)? HTTP/1\.1\r\n")

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether there is a reason to filter now; cheap."""

    @abstractmethod
    def _refusal(
        self, plain: PlainRequest, peer: str | None, settings: WebSettings
    ) -> MakeReply | None:
        """How a request is refused; None: it is served."""

    def filter(self, data: bytes, peer: str | None) -> EarlyRefusal | NotRefused:
        """
        Refuse the request in ``data``, or leave it to the parser.

        :param data: what a connection received while no request was under way on it.
        :param peer: the connection's own address; None on a unix socket.
        """
        began_at, settings = self._clock.seconds(), self._settings.current
        plain = parse_plain(data, self._target, settings.max_body_bytes)
        if not isinstance(plain, PlainRequest):
            return plain
        make_reply = self._refusal(plain, peer, settings)
        if make_reply is None:
            return NotRefused.SERVE
        close = not self._settings.keep_alive or plain.wants_close
        took_s = self._clock.seconds() - began_at
        status, reply = self._encode(make_reply, took_s, close)
        self._observe_request(self.route, "POST", status, took_s)
        return EarlyRefusal(reply, close)

    def _encode(self, make_reply: MakeReply, took_s: float, close: bool) -> tuple[int, bytes]:
        """The status of the reply, and its bytes."""
        reply = make_reply(took_s * 1000)
        return reply.status, head_of(reply, close=close) + reply.body


def parse_plain(
    data: bytes, target: re.Pattern[bytes], max_body_bytes: int
) -> PlainRequest | NotRefused:
    """The request in ``data``, if it is plain; ``target`` matches its request line."""
    head_end = data.find(_HEAD_END)
    if max(head_end, len(data) if head_end < 0 else 0) > MAX_HEAD_BYTES:
        return NotRefused.SERVE
    if head_end < 0:
        return NotRefused.WAIT
    head, body = data[: head_end + 2], data[head_end + 4 :]
    lengths = _LENGTH.findall(head)
    if len(lengths) != 1 or not target.match(head) or _UNUSUAL.search(head):
        return NotRefused.SERVE
    missing = int(lengths[0]) - len(body)
    if missing > 0 and int(lengths[0]) <= max_body_bytes:
        return NotRefused.WAIT
    if missing or body.startswith(b"--") or (body.startswith(b"{") and not _is_flat(body)):
        return NotRefused.SERVE
    return PlainRequest(head, body)


def _is_flat(body: bytes) -> bool:
    """Whether a JSON object contains neither escapes nor objects."""
    return b"\\" not in body and body.count(b"{") == 1
