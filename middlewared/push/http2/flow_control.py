"""
What goes out on one HTTP/2 connection to Apple, and when (RFC 9113, sections 5.2 and 6.9).

The one invariant: neither the connection's window nor a stream's is ever overrun, and
bodies that wait for them go on in the order they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from middlewared.push.http2 import frames
from middlewared.push.http2.exchange import Exchange


class FlowControl:
    """
    Collects bytes until they are taken.

    :param streams: the open ones; a body whose stream is gone is not sent on.
    """

    def __init__(self, streams: Mapping[int, Exchange]) -> None:
        self._streams = streams
        self.window = frames.DEFAULT_WINDOW
        """How much body the connection's window lets through now."""

        self.stream_window = frames.DEFAULT_WINDOW
        """The window every stream begins with; the peer may change it for all."""

        self._blocked: deque[Exchange] = deque()
        self._table_size = frames.DEFAULT_TABLE_SIZE
        self._shrink = b""
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
        """A frame that needs no window."""
        self._out.append(frame)

    def request(self, exchange: Exchange) -> None:
        """The headers of ``exchange``, and as much of its body as may go now."""
        stream_id = exchange.stream_id
        block, body = self._shrink + exchange.block, exchange.body
        self._shrink = b""
        size = len(body)
        if len(block) <= frames.MAX_FRAME_SIZE >= size <= min(self.window, self.stream_window):
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
            self.go_on()

    def limit_table(self, size: int) -> None:
        """
        The peer's decoder keeps a header table of ``size``.

        We keep none, but when it shrinks below what we may have used, the next header
        block must begin by saying so (RFC 7541, section 4.2).
        """
        if size < self._table_size:
            self._table_size = 0
            self._shrink = frames.EMPTY_TABLE

    def room(self, exchange: Exchange) -> int:
        """How much of its body the stream's own window lets through now; may be negative."""
        return self.stream_window + exchange.window - exchange.sent

    def go_on(self) -> None:
        """A window has grown: send what it lets through."""
        waiting, self._blocked = self._blocked, deque()
        for exchange in waiting:
            if self._streams.get(exchange.stream_id) is exchange:
                self._send_body(exchange)
                (self._completed if exchange.whole else self._blocked).append(exchange)

    def _send_body(self, exchange: Exchange) -> None:
        while not exchange.whole:
            room = min(self.window, self.room(exchange), frames.MAX_FRAME_SIZE)
            if room <= 0:
                return
            piece = exchange.body[exchange.sent : exchange.sent + room]
            exchange.sent += len(piece)
            self.window -= len(piece)
            flags = frames.END_STREAM if exchange.whole else 0
            self.write(frames.pack(frames.DATA, flags, exchange.stream_id, piece))
