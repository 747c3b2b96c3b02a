"""
The client side of one HTTP/2 connection, without input or output (RFC 9113).

Every exchange that was opened leaves ``streams`` exactly once: with a response, as
uncertain, or as unprocessed (it may be sent over another connection, since the peer never
had all of it, or reported that it did not process it).

Requests are small and alike, and responses mostly a 200. So a stream is kept in the few lines
it needs: a general state machine costs more than all the rest of a push. The ``h2`` package
validates settings here and is the peer in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from struct import Struct

from h2.errors import ErrorCodes
from h2.exceptions import InvalidSettingsValueError
from h2.settings import SettingCodes, Settings

from middlewared.push.http2 import frames
from middlewared.push.http2.exchange import OK, Exchange
from middlewared.push.http2.flow_control import FlowControl
from middlewared.push.http2.frames import ProtocolFault
from middlewared.push.http2.header_blocks import (
    MAX_HEADER_BLOCK,
    HeaderList,
    ResponseHeaders,
    unpadded,
)
from middlewared.push.interface import Temporary

MAX_IDLE_FRAMES = 10_000
"""Frames without a result (SETTINGS, PING, empty DATA ...) between two signs of life."""

MAX_STREAMS = 2_000
"""We open no more at a time, even if the peer allows it."""

MAX_BODY = frames.DEFAULT_WINDOW // 2
"""Of a response. The window of its stream is never enlarged, and padding counts there, too."""

CONNECTION_WINDOW = 1 << 20
"""How much the peer may send before we read it: a thousand error responses fit."""

_WINDOW_STEP = CONNECTION_WINDOW // 2
_PING_DATA = Struct(">Q")
_COMPLETE = frames.END_HEADERS | frames.END_STREAM


class Session:
    """
    Bytes come in by ``receive`` and go out by ``output.take``.

    :param on_unprocessed: gets each exchange that the peer did not process.
    """

    def __init__(self, *, on_unprocessed: Callable[[Exchange], None]) -> None:
        self._on_unprocessed = on_unprocessed
        self.streams: dict[int, Exchange] = {}
        self.ready = False
        """Whether the peer's first SETTINGS came; no request is sent before."""

        self.leaving = False
        """Whether no more streams will be opened."""

        self.goaway = ""
        """The peer's GOAWAY, if one came: its error code and debug data; otherwise ""."""

        self.responses, self.ping_acks = 0, 0
        """How many responses came, and how many ACKs of the then latest PING."""

        self.limit = MAX_STREAMS
        self.max_list_size = inf
        """The largest header list that the peer accepts."""

        self.output = FlowControl(self.streams)
        self._pings = 0
        self._ping_data = b""
        self.next_id = 1  # of the stream that is opened next
        self._buffer = b""
        self._heads = ResponseHeaders()
        self._consumed = 0
        self._idle_frames = 0
        self._signs_counted = 0
        self._validator = Settings(client=False)

    def start(self) -> None:
        """
        Write the preface.

        It requests a header table of size 0: then the responses' header blocks do not
        depend on each other, and a plain 200 need not be decoded.
        """
        settings: dict[int, int] = {
            SettingCodes.HEADER_TABLE_SIZE: 0,
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BLOCK,
        }
        self.output.write(frames.PREFACE + frames.settings(settings))
        self.output.write(frames.window_update(CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    @property
    def can_open(self) -> bool:
        """Whether a stream may be opened now."""
        has_room = self.output.window > 0 and len(self.streams) < self.limit
        return has_room and self.ready and not self.leaving

    @property
    def signs_of_life(self) -> int:
        """How many signs of life came: responses, and ACKs of our PINGs."""
        return self.responses + self.ping_acks

    def open(self, exchange: Exchange) -> None:
        """Send ``exchange`` on a stream of its own; its body may have to wait for a window."""
        stream_id = exchange.stream_id = self.next_id
        self.next_id = stream_id + 2
        if self.next_id > frames.MAX_WINDOW:
            self.leaving = True
        self.streams[stream_id] = exchange
        self.output.write_request(exchange)

    def cancel(self, exchange: Exchange) -> None:
        """Reset the stream of an exchange: no one waits for the rest of its response."""
        if self.streams.pop(exchange.stream_id, None) is not None:
            self.output.write(frames.rst_stream(exchange.stream_id, ErrorCodes.CANCEL))

    @property
    def ping_pending(self) -> bool:
        """Whether the latest PING has no ACK yet."""
        return bool(self._ping_data)

    def ping(self) -> None:
        """Send a PING."""
        self._pings += 1
        self._ping_data = _PING_DATA.pack(self._pings)
        self.output.write(frames.ping(self._ping_data))

    def close(self, code: ErrorCodes, reason: str) -> None:
        """Send GOAWAY and end all exchanges; the uncertain ones get ``reason``."""
        self.leaving = True
        self.output.write(frames.goaway(code))
        exchanges = list(self.streams.values())
        self.streams.clear()
        # The last one first, since each goes to the front of the queue for its replay.
        for exchange in reversed(exchanges):
            self._lost(exchange, reason)

    def _lost(self, exchange: Exchange, reason: str) -> None:
        """The rest of a response will not come."""
        if (result := exchange.result_if_lost(reason)) is not None:
            self.responses += exchange.status > 0
            exchange.end(result)
        else:
            exchange.lost_connections += 1
            self._on_unprocessed(exchange)

    def _refused(self, exchange: Exchange, *, by_error: bool) -> None:
        """The peer reported that it did not process it; a status that was read stands."""
        if exchange.status:
            self.responses += 1
            exchange.end(exchange.partial_response)
        else:
            exchange.lost_connections += by_error
            self._on_unprocessed(exchange)

    def receive(self, data: bytes) -> None:
        """
        Read received bytes.

        :raises ProtocolFault: the connection must be closed with its code.
        """
        if self._buffer:
            data = self._buffer + data
        offset = 0
        size = len(data)
        unpack = frames.FRAME_HEAD.unpack_from
        while size - offset >= frames.HEAD_SIZE:
            word, flags, stream_id = unpack(data, offset)
            start = offset + frames.HEAD_SIZE
            stop = start + (word >> 8)
            if word >> 8 > frames.MAX_FRAME_SIZE:
                raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "a frame is too long")
            if stop > size:
                break
            offset = stop
            stream_id &= frames.MAX_WINDOW
            payload = data[start:stop]
            kind = word & 0xFF
            plain = kind == frames.HEADERS and self._heads.is_plain(payload)
            if not plain or not self._succeed(stream_id, flags):
                self._read_frame(frames.Frame(kind, flags, stream_id, payload))
        self._buffer = data[offset:]

    def _succeed(self, stream_id: int, flags: int) -> bool:
        """Take the head of a 200, as almost all are: the fast path. False: it is not one."""
        exchange = self.streams.get(stream_id)
        if exchange is None or exchange.status or not exchange.sent_whole:
            return False
        if flags == frames.END_HEADERS:
            exchange.status = 200
            return True
        if flags != _COMPLETE:
            return False
        del self.streams[stream_id]
        self.responses += 1
        exchange.end(OK)
        return True

    def _read_frame(self, frame: frames.Frame) -> None:
        if not self.ready and (frame.kind != frames.SETTINGS or frame.flags & frames.ACK):
            raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._heads.unfinished and frame.kind != frames.CONTINUATION:
            raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "a header block was interrupted")
        self._count_idle()
        if (read := _READERS.get(frame.kind)) is not None:
            read(self, frame)

    def _count_idle(self) -> None:
        """
        Bound the work that a peer causes without a result (RFC 9113 section 10.5).

        Every response counts as a sign of life, and so does the ACK of a PING, which an
        idle connection sends.
        """
        if self.signs_of_life != self._signs_counted:
            self._signs_counted, self._idle_frames = self.signs_of_life, 0
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES + 2 * len(self.streams):
            raise ProtocolFault(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames for nothing")

    # Responses.

    def _headers(self, frame: frames.Frame) -> None:
        self._expect_opened(frame.stream_id)
        if (head := self._heads.add(frame)) is not None:
            self._head(frame.stream_id, *head)

    def _head(self, stream_id: int, status: int, headers: HeaderList, ends: bool) -> None:
        """A whole header block: a response's head, an interim head, or trailers."""
        exchange = self.streams.get(stream_id)
        if exchange is None:
            return  # cancelled before
        if exchange.status:  # trailers
            if not ends or status:
                self._malformed(exchange)
        elif not status or (status < 200 and ends) or status == 101:
            self._malformed(exchange)
            return
        elif status >= 200:
            exchange.status = status
            exchange.response_headers = headers
        if ends and stream_id in self.streams:
            self._complete(exchange)

    def _data(self, frame: frames.Frame) -> None:
        self._expect_opened(frame.stream_id)
        self._consumed += len(frame.payload)
        if self._consumed >= _WINDOW_STEP:
            self.output.write(frames.window_update(self._consumed))
            self._consumed = 0
        payload = unpadded(frame)
        exchange = self.streams.get(frame.stream_id)
        if exchange is None:
            return
        if not exchange.status:
            self._malformed(exchange)
            return
        exchange.response_body += payload
        if frame.flags & frames.END_STREAM:
            self._complete(exchange)
        elif len(exchange.response_body) >= MAX_BODY:
            self.responses += 1
            self.cancel(exchange)
            exchange.end(exchange.partial_response)

    def _complete(self, exchange: Exchange) -> None:
        self.responses += 1
        if exchange.sent_whole:
            del self.streams[exchange.stream_id]
        else:  # the response came early; our half is still open
            self.cancel(exchange)
        exchange.end(exchange.response)

    def _malformed(self, exchange: Exchange) -> None:
        """Reset the stream: a stream error (RFC 9113, section 8.1.1)."""
        del self.streams[exchange.stream_id]
        self.output.write(frames.rst_stream(exchange.stream_id, ErrorCodes.PROTOCOL_ERROR))
        exchange.end(exchange.result_if_lost("malformed answer") or Temporary("malformed answer"))

    def _rst_stream(self, frame: frames.Frame) -> None:
        self._expect_opened(frame.stream_id)
        code = frames.read_word(frame.payload)
        exchange = self.streams.pop(frame.stream_id, None)
        if exchange is None:
            return
        if code == ErrorCodes.REFUSED_STREAM:
            exchange.refusals += 1
            self._refused(exchange, by_error=False)
        else:
            self._lost(exchange, f"RST_STREAM {frames.code_name(code)}")

    # The connection.

    def _settings(self, frame: frames.Frame) -> None:
        _expect_connection(frame)
        if len(frame.payload) % 6 or (frame.flags & frames.ACK and frame.payload):
            raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "SETTINGS has a wrong length")
        if frame.flags & frames.ACK:
            return
        for code, value in frames.read_settings(frame.payload):
            self._set(code, value)
        self.ready = True
        self.output.write(frames.SETTINGS_ACK)
        self.output.resume()

    def _set(self, code: int, value: int) -> None:
        try:
            self._validator.validate_received_setting(code, value)
        except InvalidSettingsValueError as error:
            raise ProtocolFault(ErrorCodes(error.error_code), "a setting is wrong") from error
        if code == SettingCodes.MAX_CONCURRENT_STREAMS:
            self.limit = min(value, MAX_STREAMS)
        elif code == SettingCodes.INITIAL_WINDOW_SIZE:
            self.output.initial_window = value
        elif code == SettingCodes.MAX_HEADER_LIST_SIZE:
            self.max_list_size = value
        elif code == SettingCodes.HEADER_TABLE_SIZE:
            self.output.limit_header_table(value)

    def _ping(self, frame: frames.Frame) -> None:
        _expect_connection(frame)
        if len(frame.payload) != 8:
            raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "PING has a wrong length")
        if frame.flags & frames.ACK:
            if frame.payload == self._ping_data:
                self._ping_data = b""
                self.ping_acks += 1
        else:
            self.output.write(frames.ping(frame.payload, ack=True))

    def _goaway(self, frame: frames.Frame) -> None:
        _expect_connection(frame)
        if len(frame.payload) < 8:
            raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "GOAWAY is too short")
        last, code, debug = frames.read_goaway(frame.payload)
        self.leaving = True
        self.goaway = f"GOAWAY {frames.code_name(code)} {debug[:200].decode('utf-8', 'replace')}"
        for exchange in [e for e in reversed(self.streams.values()) if e.stream_id > last]:
            del self.streams[exchange.stream_id]
            self._refused(exchange, by_error=code != ErrorCodes.NO_ERROR)

    def _window_update(self, frame: frames.Frame) -> None:
        increment = frames.read_word(frame.payload) & frames.MAX_WINDOW
        if frame.stream_id:
            self._expect_opened(frame.stream_id)
            self._enlarge(frame.stream_id, increment)
        elif not increment or self.output.window + increment > frames.MAX_WINDOW:
            code = ErrorCodes.FLOW_CONTROL_ERROR if increment else ErrorCodes.PROTOCOL_ERROR
            raise ProtocolFault(code, "a wrong WINDOW_UPDATE")
        else:
            self.output.window += increment
        self.output.resume()

    def _enlarge(self, stream_id: int, increment: int) -> None:
        exchange = self.streams.get(stream_id)
        if exchange is None:
            return
        exchange.window_growth += increment
        if not increment or self.output.window_left(exchange) > frames.MAX_WINDOW:
            self._malformed(exchange)

    def _push_promise(self, _: frames.Frame) -> None:
        raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "PUSH_PROMISE although it is disabled")

    def _expect_opened(self, stream_id: int) -> None:
        """Frames belong to streams that we opened, even if closed (RFC 9113, section 5.1)."""
        if not stream_id & 1 or stream_id >= self.next_id:
            raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "a frame on a stream never opened")


def _expect_connection(frame: frames.Frame) -> None:
    if frame.stream_id:
        raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "a connection frame on a stream")


_READERS: dict[int, Callable[[Session, frames.Frame], None]] = {
    frames.DATA: Session._data,
    frames.HEADERS: Session._headers,
    frames.RST_STREAM: Session._rst_stream,
    frames.SETTINGS: Session._settings,
    frames.PUSH_PROMISE: Session._push_promise,
    frames.PING: Session._ping,
    frames.GOAWAY: Session._goaway,
    frames.WINDOW_UPDATE: Session._window_update,
    frames.CONTINUATION: Session._headers,
}
