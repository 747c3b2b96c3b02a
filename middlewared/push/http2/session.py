"""
The client side of one HTTP/2 connection to Apple, without input or output (RFC 9113).

The one invariant: every exchange that was opened leaves ``streams`` exactly once: with
an answer, as uncertain, or as unprocessed (it may be sent over another connection, because
the peer said so or never had all of it).

Requests are small, all alike and need no state of HPACK's encoder; answers are mostly
"200" and nothing else. So streams are kept here in the few lines they need, where a
general state machine for each of them costs more than all the rest of a push. The
``h2`` package validates settings here and is the peer in the tests.
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
from middlewared.push.http2.header_blocks import MAX_HEADER_BLOCK, HeaderBlocks, unpadded
from middlewared.push.interface import Temporary

MOST_IDLE_FRAMES = 10_000
"""Frames that bring nothing (SETTINGS, PING, empty DATA ...) between two signs of life."""

MAX_STREAMS = 2_000
"""We open no more at once, whatever the peer allows."""

CONNECTION_WINDOW = 1 << 20
"""What the peer may send on all streams before we read it: a thousand refusals fit."""

_WINDOW_STEP = CONNECTION_WINDOW // 2
_QUESTION = Struct(">Q")
_WHOLE = frames.END_HEADERS | frames.END_STREAM


class Session:
    """
    Bytes in by ``receive``, bytes out by ``sender.take``; exchanges end by themselves.

    :param unprocessed: gets each exchange that the peer did not process.
    """

    def __init__(self, *, unprocessed: Callable[[Exchange], None]) -> None:
        self._unprocessed = unprocessed
        self.streams: dict[int, Exchange] = {}
        self.ready = False
        """Whether the peer's first SETTINGS came; before it nothing may be sent."""

        self.leaving = False
        """Whether no more streams can be opened, ever."""

        self.farewell = ""
        """What the peer's GOAWAY said: error code, then its debug data."""

        self.answers = 0
        self.pongs = 0
        """How many ACKs came, each for the PING that was then the latest."""

        self.limit = MAX_STREAMS
        self.max_list_size = inf
        """The largest header list that the peer takes."""

        self.sender = FlowControl(self.streams)
        self._pings = 0
        self._question = b""
        self._next_id = 1
        self._buffer = b""
        self._blocks = HeaderBlocks()
        self._consumed = 0
        self._idle_frames = 0
        self._signs_then = 0
        self._validator = Settings(client=False)

    def start(self) -> None:
        """
        Write the preface.

        A header table of size 0 is asked for: then the answers' header blocks do not
        depend on each other, and a plain 200 need not be decoded.
        """
        wishes: dict[int, int] = {
            SettingCodes.HEADER_TABLE_SIZE: 0,
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BLOCK,
        }
        self.sender.write(frames.PREFACE + frames.settings(wishes))
        self.sender.write(frames.window_update(CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    @property
    def can_open(self) -> bool:
        """Whether a stream may be opened now."""
        return (
            self.ready
            and not self.leaving
            and self.sender.window > 0
            and len(self.streams) < self.limit
        )

    @property
    def signs(self) -> int:
        """How many signs of life came: answers, and ACKs of our PINGs."""
        return self.answers + self.pongs

    def open(self, exchange: Exchange) -> None:
        """Send ``exchange`` on a stream of its own; its body waits for windows if it must."""
        stream_id = exchange.stream_id = self._next_id
        self._next_id = stream_id + 2
        if self._next_id > frames.MAX_WINDOW:
            self.leaving = True
        self.streams[stream_id] = exchange
        self.sender.request(exchange)

    def give_up(self, exchange: Exchange) -> None:
        """End the stream of an exchange nobody waits for."""
        if self.streams.pop(exchange.stream_id, None) is not None:
            self.sender.write(frames.rst_stream(exchange.stream_id, ErrorCodes.CANCEL))

    @property
    def asked(self) -> bool:
        """Whether the latest PING has no ACK yet."""
        return bool(self._question)

    def ping(self) -> None:
        """Send a PING."""
        self._pings += 1
        self._question = _QUESTION.pack(self._pings)
        self.sender.write(frames.ping(self._question))

    def close(self, code: ErrorCodes, reason: str) -> None:
        """Send GOAWAY and end all exchanges; ``reason`` is that of the uncertain ones."""
        self.leaving = True
        self.sender.write(frames.goaway(code))
        exchanges = list(self.streams.values())
        self.streams.clear()
        # The last first: each goes before the others when it waits for its replay.
        for exchange in reversed(exchanges):
            self._lost(exchange, reason)

    def _lost(self, exchange: Exchange, reason: str) -> None:
        """The rest of an answer will not come."""
        if (fate := exchange.fate(reason)) is not None:
            self.answers += exchange.status > 0
            exchange.end(fate)
        else:
            exchange.deaths += 1
            self._unprocessed(exchange)

    def _refused(self, exchange: Exchange, *, deadly: bool) -> None:
        """The peer did not process it, by its own account, unless it has already answered."""
        if exchange.status:
            self.answers += 1
            exchange.end(exchange.answer)
        else:
            exchange.deaths += deadly
            self._unprocessed(exchange)

    def receive(self, data: bytes) -> None:
        """
        Read what came.

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
            plain = kind == frames.HEADERS and flags == _WHOLE and self._blocks.is_plain(payload)
            if not plain or not self._accepted(stream_id):
                self._frame(frames.Frame(kind, flags, stream_id, payload))
        self._buffer = data[offset:]

    def _accepted(self, stream_id: int) -> bool:
        """A whole answer that says 200 and no more, as almost all do: the short way."""
        exchange = self.streams.get(stream_id)
        if exchange is None or exchange.status or not exchange.whole:
            return False
        del self.streams[stream_id]
        self.answers += 1
        exchange.end(OK)
        return True

    def _frame(self, frame: frames.Frame) -> None:
        if not self.ready and (frame.kind != frames.SETTINGS or frame.flags & frames.ACK):
            raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._blocks.unfinished and frame.kind != frames.CONTINUATION:
            raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "a header block was interrupted")
        self._count_idle()
        if (read := _READERS.get(frame.kind)) is not None:
            read(self, frame)

    def _count_idle(self) -> None:
        """
        Bound what a peer makes us do for nothing (RFC 9113 section 10.5).

        Answers come by other frames than the short way's, too, and count as signs of life;
        so do the ACKs of the PINGs that an idle connection gets.
        """
        if self.signs != self._signs_then:
            self._signs_then, self._idle_frames = self.signs, 0
        self._idle_frames += 1
        if self._idle_frames > MOST_IDLE_FRAMES + 2 * len(self.streams):
            raise ProtocolFault(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames for nothing")

    # Answers.

    def _headers(self, frame: frames.Frame) -> None:
        self._expect_opened(frame.stream_id)
        if (block := self._blocks.add(frame)) is not None:
            self._head(frame.stream_id, *block)

    def _head(self, stream_id: int, status: int, retry_after: str, ends: bool) -> None:
        """A whole header block: an answer's head, an interim head, or trailers."""
        exchange = self.streams.get(stream_id)
        if exchange is None:
            return  # given up before
        if exchange.status:  # trailers
            if not ends or status:
                self._malformed(exchange)
        elif not status or (status < 200 and ends) or status == 101:
            self._malformed(exchange)
            return
        elif status >= 200:
            exchange.status = status
            exchange.retry_after = retry_after
        if ends and stream_id in self.streams:
            self._answered(exchange)

    def _data(self, frame: frames.Frame) -> None:
        self._expect_opened(frame.stream_id)
        self._consumed += len(frame.payload)
        if self._consumed >= _WINDOW_STEP:
            self.sender.write(frames.window_update(self._consumed))
            self._consumed = 0
        payload = unpadded(frame)
        exchange = self.streams.get(frame.stream_id)
        if exchange is None:
            return
        if not exchange.status:
            self._malformed(exchange)
            return
        exchange.reply += payload
        if len(exchange.reply) > frames.DEFAULT_WINDOW:  # we never enlarge a stream's window
            raise ProtocolFault(ErrorCodes.FLOW_CONTROL_ERROR, "an answer exceeds its window")
        if frame.flags & frames.END_STREAM:
            self._answered(exchange)

    def _answered(self, exchange: Exchange) -> None:
        del self.streams[exchange.stream_id]
        self.answers += 1
        if not exchange.whole:  # judged before it was read; our half is still open
            self.sender.write(frames.rst_stream(exchange.stream_id, ErrorCodes.CANCEL))
        exchange.end(exchange.answer)

    def _malformed(self, exchange: Exchange) -> None:
        """A stream error (RFC 9113, section 8.1.1)."""
        del self.streams[exchange.stream_id]
        self.sender.write(frames.rst_stream(exchange.stream_id, ErrorCodes.PROTOCOL_ERROR))
        exchange.end(exchange.fate("malformed answer") or Temporary("malformed answer"))

    def _rst_stream(self, frame: frames.Frame) -> None:
        self._expect_opened(frame.stream_id)
        code = _word(frame.payload)
        exchange = self.streams.pop(frame.stream_id, None)
        if exchange is None:
            return
        if code == ErrorCodes.REFUSED_STREAM:
            exchange.refusals += 1
            self._refused(exchange, deadly=False)
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
        self.sender.write(frames.SETTINGS_ACK)
        self.sender.go_on()

    def _set(self, code: int, value: int) -> None:
        try:
            self._validator.validate_received_setting(code, value)
        except InvalidSettingsValueError as error:
            raise ProtocolFault(ErrorCodes(error.error_code), "a setting is wrong") from error
        if code == SettingCodes.MAX_CONCURRENT_STREAMS:
            self.limit = min(value, MAX_STREAMS)
        elif code == SettingCodes.INITIAL_WINDOW_SIZE:
            self.sender.stream_window = value
        elif code == SettingCodes.MAX_HEADER_LIST_SIZE:
            self.max_list_size = value
        elif code == SettingCodes.HEADER_TABLE_SIZE:
            self.sender.limit_table(value)

    def _ping(self, frame: frames.Frame) -> None:
        _expect_connection(frame)
        if len(frame.payload) != 8:
            raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "PING has a wrong length")
        if frame.flags & frames.ACK:
            if frame.payload == self._question:
                self._question = b""
                self.pongs += 1
        else:
            self.sender.write(frames.ping(frame.payload, ack=True))

    def _goaway(self, frame: frames.Frame) -> None:
        _expect_connection(frame)
        if len(frame.payload) < 8:
            raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "GOAWAY is too short")
        last, code, debug = frames.read_goaway(frame.payload)
        self.leaving = True
        self.farewell = f"GOAWAY {frames.code_name(code)} {debug[:200].decode('utf-8', 'replace')}"
        for exchange in [e for e in reversed(self.streams.values()) if e.stream_id > last]:
            del self.streams[exchange.stream_id]
            self._refused(exchange, deadly=code != ErrorCodes.NO_ERROR)

    def _window_update(self, frame: frames.Frame) -> None:
        increment = _word(frame.payload) & frames.MAX_WINDOW
        if frame.stream_id:
            self._expect_opened(frame.stream_id)
            self._enlarge(frame.stream_id, increment)
        elif not increment or self.sender.window + increment > frames.MAX_WINDOW:
            code = ErrorCodes.FLOW_CONTROL_ERROR if increment else ErrorCodes.PROTOCOL_ERROR
            raise ProtocolFault(code, "a wrong WINDOW_UPDATE")
        else:
            self.sender.window += increment
        self.sender.go_on()

    def _enlarge(self, stream_id: int, increment: int) -> None:
        exchange = self.streams.get(stream_id)
        if exchange is None:
            return
        exchange.window += increment
        if not increment or self.sender.room(exchange) > frames.MAX_WINDOW:
            self._malformed(exchange)

    def _push_promise(self, _: frames.Frame) -> None:
        raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "PUSH_PROMISE although it is disabled")

    def _expect_opened(self, stream_id: int) -> None:
        """Frames belong to streams we opened, be they closed by now (RFC 9113, section 5.1)."""
        if not stream_id & 1 or stream_id >= self._next_id:
            raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "a frame on a stream never opened")


def _expect_connection(frame: frames.Frame) -> None:
    if frame.stream_id:
        raise ProtocolFault(ErrorCodes.PROTOCOL_ERROR, "a connection frame on a stream")


def _word(payload: bytes) -> int:
    if len(payload) != 4:
        raise ProtocolFault(ErrorCodes.FRAME_SIZE_ERROR, "a frame has a wrong length")
    return frames.read_word(payload)


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
