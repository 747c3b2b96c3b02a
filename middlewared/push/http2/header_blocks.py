"""
The header blocks of answers: put together from frames, and decoded (RFC 7541).

The one invariant: every block that could change HPACK's table is decoded, in the order
of arrival, whether anybody wants to know what it says or not.
"""

from __future__ import annotations

from h2.errors import ErrorCodes
from hpack import Decoder, HPACKError

from middlewared.push.http2 import frames
from middlewared.push.http2.frames import Frame, ProtocolFault

MAX_HEADER_BLOCK = 65_536


class HeaderBlocks:
    """Reads HEADERS and the CONTINUATION frames that follow them."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._decoder.max_header_list_size = MAX_HEADER_BLOCK
        self._independent = False
        self._first: Frame | None = None
        self._block = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether the next frame must be a CONTINUATION."""
        return self._first is not None

    def is_plain(self, block: bytes) -> bool:
        """
        Whether a whole block is a "200" that need not be decoded.

        With a table of size 0 no block changes anything, and an answer of that status
        has nothing else to say.
        """
        return self._independent and block[:1] == frames.STATUS_200

    def add(self, frame: Frame) -> tuple[int, str, bool] | None:
        """
        Take the next frame.

        :return: status (0: none, or not one), Retry-After ("": none) and whether the
            stream ends with it; None when the block is not whole yet.
        """
        if frame.kind == frames.HEADERS:
            first, block = frame, bytearray(_fragment(frame))
        else:
            first, block = self._continued(frame)
        if not frame.flags & frames.END_HEADERS:
            self._first, self._block, self._independent = first, block, False
            return None
        self._first, self._block = None, bytearray()
        status, retry_after = self._decode(bytes(block))
        self._independent = self._decoder.header_table_size == 0
        return status, retry_after, bool(first.flags & frames.END_STREAM)

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

    def _decode(self, block: bytes) -> tuple[int, str]:
        status, retry_after = 0, ""
        try:
            for name, value in self._decoder.decode(block, raw=True):
                if name == b":status" and len(value) == 3 and value.isdigit():
                    status = int(value)
                elif name == b"retry-after":
                    retry_after = value.decode("latin-1")
        except (HPACKError, IndexError, TypeError, ValueError) as error:
            raise ProtocolFault(ErrorCodes.COMPRESSION_ERROR, "a header block is broken") from error
        return status, retry_after


def unpadded(frame: Frame) -> bytes:
    """The payload of HEADERS or DATA without its padding (RFC 9113, section 6.1)."""
    payload = frame.payload
    if not frame.flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _fragment(frame: Frame) -> bytes:
    """What a HEADERS frame has of the block (RFC 9113, section 6.2)."""
    payload = unpadded(frame)
    if not frame.flags & frames.PRIORITISED:
        return payload
    if len(payload) < 5:
        raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "HEADERS is too short")
    return payload[5:]
