"""
Simulator, HTTP/2: one connection, server side, on h2.

The output of one reactor iteration leaves in one write, and a connection
that ended leaves no delayed call behind.

GOAWAY frames are written past h2, whose state machine would end the connection with
them; RFC 9113 (section 6.8) lets the streams up to the last one finish.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import attrs
from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from middlewared.clock import Clock, DelayedCall
from middlewared.simulator.http2.frame_steps import GoAway, Greeting, Http2Behaviour
from middlewared.simulator.http2.h2_server import ServerConnection, goaway_frame
from middlewared.simulator.http2.served_stream import Fields, ServedStream
from middlewared.simulator.record import Record

LONGEST_BODY = 65_536
LARGEST_STREAM_ID = 2**31 - 1
# Used connection window is given back in pieces of this size.
_WINDOW_PIECE = 32_768

StreamT = TypeVar("StreamT", bound=ServedStream[Any])


@attrs.frozen(kw_only=True)
class Office:
    """What all connections of a server share."""

    clock: Clock
    record: Record[Any]
    lost: Callable[[Protocol], None]


class ServedConnection(Protocol, abc.ABC, Generic[StreamT]):
    """
    Reads requests, has them served, and writes what their streams answer.

    Implements :class:`~.served_stream.Wire`; tests use it too.
    """

    transport: TLSMemoryBIOProtocol  # type: ignore[assignment] # Twisted names a wider type
    _http2: ServerConnection  # from the greeting on

    def __init__(self, *, number: int, office: Office, behaviour: Http2Behaviour) -> None:
        self.number = number
        self._clock = office.clock
        self._record = office.record
        self._lost = office.lost
        self._behaviour = behaviour
        self._exchanges: dict[int, StreamT] = {}
        self._calls: set[DelayedCall] = set()
        self._written: list[bytes] = []
        self._flush_expected = False
        self._greeted = False
        self._deaf = True
        self._taken = 0
        self._resets = 0
        self._last_taken_id = 0
        self._goaway_last_id: int | None = None
        self._announced: GoAway | None = None
        self._close_when_done = False
        self._window_used = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} open={len(self._exchanges)}>"

    @abc.abstractmethod
    def new_stream(self, stream_id: int, fields: Fields) -> StreamT:
        """Make the stream of a request whose header has come."""

    @abc.abstractmethod
    def serve(self, stream: StreamT) -> None:
        """Serve a request that is complete."""

    def greet(self, stream_limit: int) -> None:
        """Begin HTTP/2, when TLS is done."""
        self._http2 = ServerConnection(self._behaviour, stream_limit)
        self._greeted = True
        self._deaf = self._behaviour.greeting is Greeting.NO_SETTINGS
        self._expect_flush()

    def count_taken(self) -> None:
        """Count a request that was taken: GOAWAY may be due."""
        self._taken += 1
        if self._taken == self._behaviour.goaway_after:
            self.go_away(GoAway(close=True))

    # Twisted's side.

    def dataReceived(self, data: bytes) -> None:
        """Meet the peer's frames, then write all answers at once."""
        if self._deaf:
            return
        self._flush_expected = True
        try:
            received = self._http2.receive_data(data)
        except ProtocolError as error:
            self._record.violations.append(f"{type(error).__name__}: {error}")
            self._flush()
            self.fall_silent()
            self.close()
            return
        for event in received:
            meet = self._MEET.get(type(event))
            if meet is not None:
                meet(self, event)
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget everything."""
        if not self._greeted:
            self._record.violations.append(f"no handshake: {reason.getErrorMessage()}")
        self._deaf = True
        self._drop_exchanges()
        self._lost(self)

    def _drop_exchanges(self) -> None:
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        self._exchanges.clear()

    # The peer's frames.

    def _meet_request(self, event: events.RequestReceived) -> None:
        stream_id = event.stream_id
        assert stream_id is not None
        assert event.headers is not None
        if self._goaway_last_id is not None and stream_id > self._goaway_last_id:
            return
        fields = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in event.headers]
        self._exchanges[stream_id] = self.new_stream(stream_id, fields)

    def _meet_data(self, event: events.DataReceived) -> None:
        http2, stream_id = self._http2, event.stream_id
        assert stream_id is not None
        size = event.flow_controlled_length or 0
        exchange = self._exchanges.get(stream_id)
        if exchange is not None and len(exchange.body) < LONGEST_BODY:
            exchange.body += event.data or b""
        if exchange is not None and event.stream_ended is None and size:
            http2.increment_flow_control_window(size, stream_id)
        self._window_used += size
        if self._behaviour.replenish and self._window_used >= _WINDOW_PIECE:
            http2.increment_flow_control_window(self._window_used)
            self._window_used = 0

    def _meet_end(self, event: events.StreamEnded) -> None:
        exchange = self._exchanges.get(event.stream_id or 0)
        if exchange is not None:
            self._last_taken_id = max(self._last_taken_id, exchange.stream_id)
            self.serve(exchange)

    def _meet_reset(self, event: events.StreamReset) -> None:
        self._record.reset_count += 1
        self._resets += 1
        if self._resets == self._behaviour.most_resets:
            self.go_away(GoAway(code=ErrorCodes.ENHANCE_YOUR_CALM))
            self.hang_up()
        exchange = self._exchanges.get(event.stream_id or 0)
        if exchange is not None:
            self.finish(exchange)

    def _meet_goaway(self, _event: events.ConnectionTerminated) -> None:
        self._drop_exchanges()  # h2 sends nothing any more

    def _meet_ping_answer(self, _event: events.PingAckReceived) -> None:
        order, self._announced = self._announced, None
        if order is not None:
            self.go_away(attrs.evolve(order, graceful=False))

    def _meet_room(self, _event: events.Event) -> None:
        for exchange in [each for each in self._exchanges.values() if each.answered]:
            self.send_body(exchange)

    _MEET: ClassVar[dict[type[events.Event], Callable[[Any, Any], None]]] = {
        events.RequestReceived: _meet_request,
        events.DataReceived: _meet_data,
        events.StreamEnded: _meet_end,
        events.StreamReset: _meet_reset,
        events.ConnectionTerminated: _meet_goaway,
        events.PingAckReceived: _meet_ping_answer,
        events.WindowUpdated: _meet_room,
        events.RemoteSettingsChanged: _meet_room,
    }

    # Wire.

    def send_headers(self, stream_id: int, fields: Fields, *, end_stream: bool = False) -> None:
        self._http2.send_headers(stream_id, fields, end_stream=end_stream)
        self._expect_flush()

    def send_part(self, stream_id: int, data: bytes) -> None:
        room = min(
            self._http2.local_flow_control_window(stream_id), self._http2.max_outbound_frame_size
        )
        self._http2.send_data(stream_id, data[:room])
        self._expect_flush()

    def send_body(self, stream: ServedStream[Any]) -> None:
        http2, stream_id = self._http2, stream.stream_id
        overhead = 0 if stream.padding is None else stream.padding + 1
        while stream.unsent:
            window = http2.local_flow_control_window(stream_id)
            room = min(window, http2.max_outbound_frame_size) - overhead
            if room <= 0:
                return
            piece, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            ends = not stream.unsent and not stream.trailers
            http2.send_data(stream_id, piece, end_stream=ends, pad_length=stream.padding)
        if stream.trailers:
            http2.send_headers(stream_id, stream.trailers, end_stream=True)
        self._expect_flush()
        self.finish(stream)

    def finish(self, stream: ServedStream[Any]) -> None:
        stream.over = True
        if self._exchanges.pop(stream.stream_id, None):
            self._http2.finished_count += 1

    def reset_stream(self, stream: ServedStream[Any], code: int) -> None:
        self._http2.reset_stream(stream.stream_id, code)
        self._expect_flush()
        self.finish(stream)

    def go_away(self, order: GoAway) -> None:
        if order.graceful:
            self._announced = order
            self.write_raw(goaway_frame(order, LARGEST_STREAM_ID))
            self._http2.ping(b"goingoff")
            return
        last = max(0, self._last_taken_id - 2 * order.unprocessed)
        self._goaway_last_id = last
        self._close_when_done = self._close_when_done or order.close
        self.write_raw(goaway_frame(order, last))
        for exchange in [each for each in self._exchanges.values() if each.stream_id > last]:
            self.finish(exchange)

    def set_stream_limit(self, limit: int) -> None:
        self._http2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: limit})
        self._expect_flush()

    def write_raw(self, data: bytes) -> None:
        self._written += (self._http2.data_to_send(), data)
        self._expect_flush()

    def fall_silent(self) -> None:
        self._deaf = True

    def close(self) -> None:
        """Close TLS and TCP in order."""
        self.transport.loseConnection()

    def hang_up(self) -> None:
        self._flush()
        self.close()

    def abort(self) -> None:
        self.transport.abortConnection()

    def later(self, seconds: float, call: Callable[[], None]) -> None:

        def called() -> None:
            self._calls.discard(delayed)
            call()

        delayed = self._clock.callLater(seconds, called)
        self._calls.add(delayed)

    def _expect_flush(self) -> None:
        """See to it that this turn ends with a write."""
        if not self._flush_expected:
            self._flush_expected = True
            self.later(0, self._flush)

    def _flush(self) -> None:
        self._flush_expected = False
        if self._deaf:
            return
        self._written.append(self._http2.data_to_send())
        data = b"".join(self._written)
        self._written.clear()
        if data:
            self.transport.write(data)
        if self._close_when_done and not self._exchanges:
            self.close()
