"""
Requests that can be judged by their bytes, before anything is parsed.

To parse a request and to route it costs about 150 microseconds, which a flood makes the
daemon pay as often as it likes. A judge looks at the bytes first, for a tenth of that, and
may refuse what is plain: one whole request, of a known length, in the usual form.
"""

from __future__ import annotations

import enum
import re
from typing import Protocol

import attrs

from middlewared.web.replies import Reply, head_of

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
class Refused:
    """The bytes are one request, which was refused: ``reply`` is to be sent."""

    reply: bytes
    close: bool


class Judge(Protocol):
    """
    Refuses requests of one route by their bytes.

    :ivar request_line: what they begin with.
    """

    request_line: bytes

    @property
    def active(self) -> bool:
        """Whether it has a reason to look at requests now; cheap."""

    def early(self, data: bytes, peer: str | None) -> Refused | Early:
        """
        Refuse what ``data`` asks for, if it is to be refused.

        :param data: what a connection received while no request was under way on it.
        :param peer: the connection's own address; None on a unix socket.
        """


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
    def forwarded_for(self) -> list[bytes]:
        """The X-Forwarded-For headers."""
        return _FORWARDED_FOR.findall(self.head)

    def refused(self, reply: Reply, *, closing: bool) -> Refused:
        """``reply``, after which the connection is closed if the client or we want it."""
        close = closing or _CLOSE.search(self.head) is not None
        return Refused(head_of(reply, close=close) + reply.body, close)


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
