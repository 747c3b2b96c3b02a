"""
Simulator, Apple: one HTTP/2 connection, server side, on h2.

The output of one reactor iteration leaves in one write, and a connection
that ended leaves no delayed call behind.

GOAWAY frames are written past h2, whose state machine would end the connection with
them; RFC 9113 (section 6.8) lets the streams up to the last one finish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
from cryptography.x509.oid import NameOID
from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.clock import Clock, DelayedCall
from middlewared.simulator.apple.faults import Behaviour, GoAway, Greeting, Step
from middlewared.simulator.apple.http2 import ServerConnection, goaway_frame
from middlewared.simulator.apple.push_stream import Fields, PushStream
from middlewared.simulator.apple.validation import AcceptedKeys, Broken, PushRequest, Validator
from middlewared.simulator.record import ReceivedPush, Record
from middlewared.simulator.scripts import Scripts

LONGEST_BODY = 65_536
# Used connection window is given back in pieces of this size.
_WINDOW_PIECE = 32_768


@attrs.frozen
class Office:
    """What all connections of a server share."""

    environment: str
    clock: Clock
    validator: Validator
    scripts: Scripts[Step]
    record: Record[ReceivedPush]
    lost: Callable[[Protocol], None]


@implementer(IHandshakeListener)
class AppleConnection(Protocol):
    """
    Reads pushes, has them validated, and writes what their streams answer.

    Implements :class:`~.push_stream.Wire`; tests use it too.
    """

    transport: TLSMemoryBIOProtocol  # type: ignore[assignment] # Twisted names a wider type
    _http2: ServerConnection  # from the end of the handshake on

    def __init__(self, *, number: int, office: Office, behaviour: Behaviour) -> None:
        self.number = number
        self._office = office
        self._behaviour = behaviour
        self._credentials = AcceptedKeys()
        self._exchanges: dict[int, PushStream] = {}
        self._calls: set[DelayedCall] = set()
        self._written: list[bytes] = []
        self._flush_expected = False
        self._greeted = False
        self._deaf = True
        self._limited = False
        self._taken = 0
        self._resets = 0
        self._last_taken_id = 0
        self._goaway_last_id: int | None = None
        self._close_when_done = False
        self._window_used = 0

    def __repr__(self) -> str:
        place = self._office.environment
        return f"<AppleConnection {self.number} {place} open={len(self._exchanges)}>"

    # Twisted's side.

    def handshakeCompleted(self) -> None:
        """Validate ALPN and certificate, then greet."""
        if self.transport.negotiatedProtocol != b"h2":
            self._office.record.violations.append("no h2 in ALPN")
            self.abort()
            return
        self._credentials.certificate_topic = self._certificate_topic()
        one = self._behaviour.one_until_success
        self._limited = self._credentials.certificate_topic is None if one is None else one
        limit = 1 if self._limited else self._behaviour.max_concurrent_streams
        self._http2 = ServerConnection(self._behaviour, limit)
        self._greeted = True
        self._deaf = self._behaviour.greeting is Greeting.NO_SETTINGS
        self._expect_flush()

    def dataReceived(self, data: bytes) -> None:
        """Meet the peer's frames, then write all answers at once."""
        if self._deaf:
            return
        self._flush_expected = True
        try:
            received = self._http2.receive_data(data)
        except ProtocolError as error:
            self._office.record.violations.append(f"{type(error).__name__}: {error}")
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
            self._office.record.violations.append(f"no handshake: {reason.getErrorMessage()}")
        self._deaf = True
        self._drop_exchanges()
        self._office.lost(self)

    def _drop_exchanges(self) -> None:
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        self._exchanges.clear()

    def _certificate_topic(self) -> str | None:
        certificate = self.transport.getPeerCertificate()
        if certificate is None:
            return None
        names = certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.USER_ID)
        return str(names[0].value) if names else ""

    # The peer's frames.

    def _meet_request(self, event: events.RequestReceived) -> None:
        stream_id = event.stream_id
        assert stream_id is not None
        assert event.headers is not None
        if self._goaway_last_id is not None and stream_id > self._goaway_last_id:
            return
        fields = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in event.headers]
        self._exchanges[stream_id] = PushStream(stream_id, fields, self, self._office.record)

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
        if exchange is None:
            return
        self._last_taken_id = max(self._last_taken_id, exchange.stream_id)
        headers = dict(exchange.fields)
        request = PushRequest(headers, len(headers) != len(exchange.fields), bytes(exchange.body))
        try:
            token, payload = self._office.validator.validate(request, self._credentials)
        except Broken as broken:
            self._office.record.refused.append(broken.answer.reason)
            exchange.reject(broken.answer)
        else:
            self._take(exchange, token, headers, payload)

    def _take(
        self, exchange: PushStream, token: str, headers: dict[str, str], payload: dict[str, Any]
    ) -> None:
        office = self._office
        exchange.push = ReceivedPush(
            token=token,
            headers=headers,
            payload=payload,
            environment=office.environment,
            connection=self.number,
            stream_id=exchange.stream_id,
            received_at=office.clock.seconds(),
        )
        office.record.receive(exchange.push)
        exchange.steps = iter(office.scripts.take(token))
        self._taken += 1
        if self._taken == self._behaviour.goaway_after:
            self.go_away(GoAway(close=True))
        exchange.proceed()

    def _meet_reset(self, event: events.StreamReset) -> None:
        self._office.record.reset_count += 1
        self._resets += 1
        if self._resets == self._behaviour.most_resets:
            self.go_away(GoAway(code=ErrorCodes.ENHANCE_YOUR_CALM))
            self.hang_up()
        exchange = self._exchanges.get(event.stream_id or 0)
        if exchange is not None:
            self.finish(exchange)

    def _meet_goaway(self, _event: events.ConnectionTerminated) -> None:
        self._drop_exchanges()  # h2 sends nothing any more

    def _meet_room(self, _event: events.Event) -> None:
        for exchange in [each for each in self._exchanges.values() if each.answered]:
            self.send_body(exchange)

    _MEET: ClassVar[dict[type[events.Event], Callable[[AppleConnection, Any], None]]] = {
        events.RequestReceived: _meet_request,
        events.DataReceived: _meet_data,
        events.StreamEnded: _meet_end,
        events.StreamReset: _meet_reset,
        events.ConnectionTerminated: _meet_goaway,
        events.WindowUpdated: _meet_room,
        events.RemoteSettingsChanged: _meet_room,
    }

    # Wire.

    def send_headers(self, stream_id: int, fields: Fields, *, end_stream: bool = False) -> None:
        self._http2.send_headers(stream_id, fields, end_stream=end_stream)
        self._expect_flush()

    def accept(self, stream_id: int, apns_id: str) -> bool:
        frame = self._http2.accept(stream_id, apns_id.encode("ascii"))
        if frame is None:
            return False
        self.write_raw(frame)
        return True

    def send_body(self, exchange: PushStream) -> None:
        http2, stream_id = self._http2, exchange.stream_id
        overhead = 0 if exchange.padding is None else exchange.padding + 1
        while exchange.unsent:
            window = http2.local_flow_control_window(stream_id)
            room = min(window, http2.max_outbound_frame_size) - overhead
            if room <= 0:
                return
            piece, exchange.unsent = exchange.unsent[:room], exchange.unsent[room:]
            ends = not exchange.unsent and not exchange.trailers
            http2.send_data(stream_id, piece, end_stream=ends, pad_length=exchange.padding)
        if exchange.trailers:
            http2.send_headers(stream_id, exchange.trailers, end_stream=True)
        self._expect_flush()
        self.finish(exchange)

    def finish(self, exchange: PushStream) -> None:
        exchange.over = True
        if self._exchanges.pop(exchange.stream_id, None):
            self._http2.finished_count += 1

    def accepted(self) -> None:
        if self._limited:
            self._limited = False
            self.set_stream_limit(self._behaviour.max_concurrent_streams)

    def rejected(self) -> None:
        if self._behaviour.limit_after_rejection is not None:
            self._limited = True
            self.set_stream_limit(self._behaviour.limit_after_rejection)

    def reset_stream(self, exchange: PushStream, code: int) -> None:
        self._http2.reset_stream(exchange.stream_id, code)
        self._expect_flush()
        self.finish(exchange)

    def go_away(self, order: GoAway) -> None:
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

        delayed = self._office.clock.callLater(seconds, called)
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
