"""
The frames of HTTP/2 that a client sends and reads (RFC 9113, section 6).

Nothing here has state: bytes in, bytes out.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from h2.errors import ErrorCodes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_TABLE_SIZE = 4_096
MAX_FRAME_SIZE = 16_384
"""What we accept and send: the protocol's default, more than a push or its response needs."""

FRAME_HEAD = struct.Struct(">IBI")
"""Length and type share the first word (24 and 8 bits); then flags and stream id."""

HEAD_SIZE = FRAME_HEAD.size
_PAIR = struct.Struct(">II")
_WORD = struct.Struct(">I")
_SETTING = struct.Struct(">HI")


class ProtocolFault(Exception):
    """The peer broke the protocol: the connection cannot be used any more."""

    def __init__(self, code: ErrorCodes, what: str) -> None:
        super().__init__(what)
        self.code = code


class Frame(NamedTuple):
    """A frame that was received."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def pack(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return FRAME_HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def headers(stream_id: int, block: bytes) -> list[bytes]:
    """A header block of any length, with CONTINUATION frames as needed; the stream stays open."""
    pieces = [
        block[at : at + MAX_FRAME_SIZE] for at in range(0, max(len(block), 1), MAX_FRAME_SIZE)
    ]
    kinds = [HEADERS] + [CONTINUATION] * (len(pieces) - 1)
    ends = [0] * (len(pieces) - 1) + [END_HEADERS]
    return [
        pack(kind, end, stream_id, piece)
        for kind, end, piece in zip(kinds, ends, pieces, strict=True)
    ]


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return pack(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


SETTINGS_ACK = pack(SETTINGS, ACK, 0)


def ping(data: bytes, *, ack: bool = False) -> bytes:
    """A PING of eight bytes, or its ACK."""
    return pack(PING, ACK if ack else 0, 0, data)


def rst_stream(stream_id: int, code: ErrorCodes) -> bytes:
    """End one stream."""
    return pack(RST_STREAM, 0, stream_id, _WORD.pack(code))


def window_update(increment: int) -> bytes:
    """Enlarge the connection's window."""
    return pack(WINDOW_UPDATE, 0, 0, _WORD.pack(increment))


def goaway(code: ErrorCodes) -> bytes:
    """The last frame of a client; it never processes streams of the peer (last id 0)."""
    return pack(GOAWAY, 0, 0, _PAIR.pack(0, code))


def read_word(payload: bytes) -> int:
    """The 32 bits of an RST_STREAM or WINDOW_UPDATE."""
    if len(payload) != 4:
        raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "a frame has a wrong length")
    value: int = _WORD.unpack(payload)[0]
    return value


def read_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """Last stream id, error code and debug data."""
    last_stream_id, code = _PAIR.unpack_from(payload)
    return last_stream_id & MAX_WINDOW, code, payload[_PAIR.size :]


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings in their order; a later one of the same name wins."""
    return list(_SETTING.iter_unpack(payload))


def code_name(code: int) -> str:
    """The name of an error code, or its number."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"code-{code:#x}"
