"""
Header blocks: those of requests are encoded, those of responses decoded (RFC 7541).

Requests are encoded as literals outside HPACK's dynamic table: the same bytes are right on
every connection, and a replay need not be encoded again. Of the responses, every block that
could change HPACK's table is decoded, in order of arrival, even if no one waits for it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

from h2.errors import ErrorCodes
from hpack import Decoder, HPACKError
from hpack.hpack import encode_integer

from middlewared.push.http2 import frames
from middlewared.push.http2.frames import Frame, ProtocolFault

MAX_HEADER_BLOCK = 65_536

METHOD_POST = b"\x83"
SCHEME_HTTPS = b"\x87"
STATUS_200 = b"\x88"
EMPTY_TABLE = b"\x20"
"""At the start of a block: the sender's dynamic table has size 0 from now on."""

SIZE_OVERHEAD = 32
"""What each header adds to the size of a list besides its octets (RFC 9113, section 6.5.2)."""


class StaticName(IntEnum):
    """Header names of HPACK's static table (RFC 7541, appendix A)."""

    AUTHORITY = 1
    PATH = 4
    AUTHORIZATION = 23
    CONTENT_TYPE = 31


def literal(name: bytes | StaticName, value: bytes, *, sensitive: bool = False) -> bytes:
    """
    One header as an HPACK literal (RFC 7541, section 6.2).

    :param sensitive: no intermediary may index it either (section 6.2.3).
    """
    first = 0x10 if sensitive else 0x00
    if isinstance(name, StaticName):
        prefix = encode_integer(name, 4)
        prefix[0] |= first
        return bytes(prefix) + text(value)
    return bytes([first]) + text(name) + text(value)


def text(value: bytes) -> bytes:
    """A string literal without Huffman code, which would cost more time than it saves."""
    length = len(value)
    if length < 127:
        return _SHORT_LENGTHS[length] + value
    return bytes(encode_integer(length, 7)) + value


_SHORT_LENGTHS = [bytes([length]) for length in range(127)]


HeaderList: TypeAlias = list[tuple[bytes, bytes]]


class ResponseHeaders:
    """Reads HEADERS frames and the CONTINUATION frames that follow them."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._decoder.max_header_list_size = MAX_HEADER_BLOCK
        self._independent = False
        """Whether HPACK's table is empty, so that no block depends on another."""

        self._first: Frame | None = None
        self._block = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether the next frame must be a CONTINUATION."""
        return self._first is not None

    def is_plain(self, block: bytes) -> bool:
        """
        Whether a whole block is a "200" that need not be decoded.

        With a table of size 0 no block changes anything, and no other header of that response
        means anything for a push.
        """
        return self._independent and block[:1] == STATUS_200

    def add(self, frame: Frame) -> tuple[int, HeaderList, bool] | None:
        """
        Take the next frame.

        :return: status (0: none, or an invalid one), the other headers, and whether the
            stream ends with the block; None while the block is not whole.
        """
        if frame.kind == frames.HEADERS:
            first, block = frame, bytearray(_fragment(frame))
        else:
            first, block = self._continued(frame)
        if not frame.flags & frames.END_HEADERS:
            self._first, self._block, self._independent = first, block, False
            return None
        self._first, self._block = None, bytearray()
        status, headers = self._decode(bytes(block))
        self._independent = self._decoder.header_table_size == 0
        return status, headers, bool(first.flags & frames.END_STREAM)

    def _continued(self, frame: Frame) -> tuple[Frame, bytearray]:
        first = self._first
        if first is None or first.stream_id != frame.stream_id:
            raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block = self._block
        block += frame.payload
        # Empty frames would cost the peer next to nothing and us an endless block.
        endless = not frame.payload and not frame.flags & frames.END_HEADERS
        if endless or len(block) > MAX_HEADER_BLOCK:
            raise ProtocolFault(ErrorCodes.ENHANCE_YOUR_CALM, "a header block is too long")
        return first, block

    def _decode(self, block: bytes) -> tuple[int, HeaderList]:
        status, headers = 0, []
        try:
            for name, value in self._decoder.decode(block, raw=True):
                if name == b":status" and len(value) == 3 and value.isdigit():
                    status = int(value)
                else:
                    headers.append((name, value))
        except (HPACKError, IndexError, TypeError, ValueError) as error:
            raise ProtocolFault(ErrorCodes.COMPRESSION_ERROR, "a header block is broken") from error
        return status, headers


def unpadded(frame: Frame) -> bytes:
    """The payload of HEADERS or DATA without its padding (RFC 9113, section 6.1)."""
    payload = frame.payload
    if not frame.flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _fragment(frame: Frame) -> bytes:
    """The part of the block in a HEADERS frame (RFC 9113, section 6.2)."""
    payload = unpadded(frame)
    if not frame.flags & frames.PRIORITISED:
        return payload
    if len(payload) < 5:
        raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "HEADERS is too short")
    return payload[5:]
