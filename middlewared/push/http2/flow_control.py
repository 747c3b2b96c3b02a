"""
What goes out on one HTTP/2 connection, and when (RFC 9113, sections 5.2 and 6.9).

Neither the connection's window nor a stream's is ever overrun. Bodies that wait for a
window continue in the order in which they were written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from middlewared.push.http2 import frames
from middlewared.push.http2.exchange import Exchange
from middlewared.push.http2.header_blocks import EMPTY_TABLE


class FlowControl:
    """
    Collects bytes until they are taken.

    :param streams: the open ones; the rest of a body whose stream is gone is dropped.
    """

    def __init__(self, streams: Mapping[int, Exchange]) -> None:
        self._streams = streams
        self.window = frames.DEFAULT_WINDOW
        """How many octets of bodies the connection's window lets through now."""

        self.initial_window = frames.DEFAULT_WINDOW
        """The window each stream begins with; the peer may change it for all."""

        self._blocked: deque[Exchange] = deque()
        self._table_size = frames.DEFAULT_TABLE_SIZE
        self._table_update = b""
        self._out: list[bytes] = []
        self._completed: list[Exchange] = []

    @property
    def unsent(self) -> int:
        """How many pieces wait for ``take``."""
        return len(self._out)

    def take(self, now: float) -> bytes:
        """The bytes to write ``now``; requests whose last byte is among them count as sent."""
        out, self._out = self._out, []
        if self._completed:
            for exchange in self._completed:
                if self._streams.get(exchange.stream_id) is exchange:
                    exchange.sent_at = now
            self._completed.clear()
        return b"".join(out)

    def write(self, frame: bytes) -> None:
        """Add a frame that needs no window."""
        self._out.append(frame)

    def write_request(self, exchange: Exchange) -> None:
        """Add the headers of ``exchange``, and as much of its body as the windows allow."""
        stream_id = exchange.stream_id
        block, body = self._table_update + exchange.header_block, exchange.body
        self._table_update = b""
        size = len(body)
        if len(block) <= frames.MAX_FRAME_SIZE >= size <= min(self.window, self.initial_window):
            pack = frames.FRAME_HEAD.pack
            self.window -= size
            exchange.sent = size
            self._completed.append(exchange)
            self._out += (
                pack(len(block) << 8 | frames.HEADERS, frames.END_HEADERS, stream_id),
                block,
                pack(size << 8, frames.END_STREAM, stream_id),
                body,
            )
        else:
            self._out += frames.headers(stream_id, block)
            self._blocked.append(exchange)
            self.resume()

    def limit_header_table(self, size: int) -> None:
        """
        The peer's decoder keeps a header table of ``size``.

        We keep none, but when it shrinks below the size we may have used, the next header
        block must begin with an update of the size (RFC 7541, section 4.2).
        """
        if size < self._table_size:
            self._table_size = 0
            self._table_update = EMPTY_TABLE

    def window_left(self, exchange: Exchange) -> int:
        """How many octets the stream's own window lets through now; may be negative."""
        return self.initial_window + exchange.window_growth - exchange.sent

    def resume(self) -> None:
        """A window has grown: continue the bodies that wait."""
        waiting, self._blocked = self._blocked, deque()
        for exchange in waiting:
            if self._streams.get(exchange.stream_id) is exchange:
                self._send_body(exchange)
                (self._completed if exchange.sent_whole else self._blocked).append(exchange)

    def _send_body(self, exchange: Exchange) -> None:
        while not exchange.sent_whole:
            size = min(self.window, self.window_left(exchange), frames.MAX_FRAME_SIZE)
            if size <= 0:
                return
            piece = exchange.body[exchange.sent : exchange.sent + size]
            exchange.sent += len(piece)
            self.window -= len(piece)
            flags = frames.END_STREAM if exchange.sent_whole else 0
            self.write(frames.pack(frames.DATA, flags, exchange.stream_id, piece))
