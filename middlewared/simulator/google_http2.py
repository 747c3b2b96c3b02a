"""
Simulator, Google: its HTTP/2 connections, with the habits of Google's front ends.

A plan that serves HTTP/1.1 serves HTTP/2 as well, with the steps of
:mod:`~middlewared.simulator.http2.frame_steps` besides. A connection
that is closed by a habit answers what it has taken first, unless the habit is a punishment.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
from h2 import events
from h2.errors import ErrorCodes
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.simulator import scripts
from middlewared.simulator.http1_server import BREAK_S, BreakOff, HttpReply, HttpStep, Received
from middlewared.simulator.http2.frame_steps import GoAway, Http2Behaviour
from middlewared.simulator.http2.h2_server import HeaderFields
from middlewared.simulator.http2.served_connection import Office, ServedConnection
from middlewared.simulator.http2.served_stream import Fields, ServedStream, Wire
from middlewared.simulator.record import GooglePush, Record


@attrs.frozen(kw_only=True)
class Habits(Http2Behaviour):
    """
    What Google's front ends do, as others' logs show it; None switches a habit off.

    ``most_pings``: GOAWAY ENHANCE_YOUR_CALM "too_many_pings" and close at this many PINGs with
    no HEADERS or DATA between. ``idle_s``: GOAWAY with ``idle_debug`` and close after so long
    without a request; PINGs do not count. ``max_age_s``: GOAWAY "max_age", announced one
    round trip ahead, and close as soon as all is answered. ``answer_limit_s``: a delay beyond
    it ends in 500 INTERNAL; what a ``Stall`` holds is never answered. Over HTTP/1.1 the
    greeting and this limit apply, over plain TCP the limit alone.
    """

    max_concurrent_streams: int = 100
    initial_window: int = 1_048_576
    connection_window: int = 1_048_576
    max_header_list_size: int = 65_536
    most_pings: int | None = 3
    idle_s: float | None = 240.0
    idle_debug: bytes = b"session_timed_out"
    max_age_s: float | None = 3600.0
    answer_limit_s: float | None = 5.0


@attrs.frozen(kw_only=True)
class GoogleOffice(Office):
    """What all connections of the server share."""

    record: Record[GooglePush]
    plan: Callable[[Received], Iterator[HttpStep]]
    standing_fields: Callable[[], Sequence[tuple[str, str]]]


class GoogleWire(Wire, typing.Protocol):
    """What a request does to its connection beyond the steps."""

    def answer(self, stream_id: int, fields: HeaderFields, body: bytes) -> bool:
        """Answer completely, if the windows allow it."""

    def standing_fields(self) -> Sequence[tuple[str, str]]:
        """Give the header fields that every answer has."""


@attrs.define(eq=False)
class GoogleStream(ServedStream[GoogleWire]):
    """One request; its steps are the server's plan for it."""

    def _run_out(self) -> None:
        self._reply(HttpReply(500))

    def _take(self, step: Any) -> bool:
        match step:
            case HttpReply():
                self._reply(step)
            case BreakOff(reply):
                self._break_off(reply)
            case scripts.Deliver():
                return False  # the plan's own business
            case _:
                return super()._take(step)
        return True

    def _reply(self, reply: HttpReply) -> None:
        fields = self._fields_of(reply)
        usual = self._is_plain and not reply.headers
        if usual and self.wire.answer(self.stream_id, fields, reply.body):
            self.wire.finish(self)
        else:
            self._respond(fields, reply.body)

    def _break_off(self, reply: HttpReply) -> None:
        self.wire.send_headers(self.stream_id, self._fields_of(reply))
        self.wire.send_part(self.stream_id, reply.body[: len(reply.body) // 2])
        # TLS sends what was written in the next iteration; a reset could overtake it.
        self.wire.later(BREAK_S, self.wire.abort)

    def _fields_of(self, reply: HttpReply) -> HeaderFields:
        given = [(name.lower(), text) for name, text in reply.headers]
        if reply.body:
            given.append(("content-type", reply.content_type))
        return ((":status", str(reply.status)), *given, *self.wire.standing_fields())


class GoogleConnection(ServedConnection[GoogleStream]):
    """
    Plays the server's plan for each request.

    Implements :class:`GoogleWire`.
    """

    def __init__(self, number: int, office: GoogleOffice, habits: Habits) -> None:
        super().__init__(number=number, office=office, behaviour=habits)
        self._office = office
        self._habits = habits
        self._pings = 0
        self._active_at = 0.0

    def connectionMade(self) -> None:
        """Greet; TLS is done."""
        habits = self._habits
        self._active_at = self._clock.seconds()
        self.greet(habits.max_concurrent_streams)
        if habits.idle_s is not None:
            self.later(habits.idle_s, self._check_idle)
        if habits.max_age_s is not None:
            self.later(habits.max_age_s, self._retire)

    def new_stream(self, stream_id: int, fields: Fields) -> GoogleStream:
        self._pings = 0
        return GoogleStream(stream_id, fields, self)

    def serve(self, stream: GoogleStream) -> None:
        """Play the plan."""
        headers = dict(stream.fields)
        received = Received(
            method=headers.pop(":method"),
            path=headers.pop(":path"),
            headers={"host": headers.pop(":authority", ""), **headers},
            body=bytes(stream.body),
            received_at=self._clock.seconds(),
            connection=self.number,
            stream_id=stream.stream_id,
        )
        stream.steps = self._office.plan(received)
        self.count_taken()
        stream.proceed()

    def finish(self, stream: ServedStream[Any]) -> None:
        self._active_at = self._clock.seconds()
        super().finish(stream)

    def answer(self, stream_id: int, fields: HeaderFields, body: bytes) -> bool:
        http2 = self._http2
        if not http2.can_answer(stream_id, body):
            return False
        self.write_raw(http2.answer(stream_id, http2.encode(fields), body))
        return True

    def standing_fields(self) -> Sequence[tuple[str, str]]:
        return self._office.standing_fields()

    # Habits.

    def _meet_ping(self, _event: events.PingReceived) -> None:
        self._pings += 1
        if self._pings == self._habits.most_pings:
            calm = ErrorCodes.ENHANCE_YOUR_CALM
            self.go_away(GoAway(code=calm, debug=b"too_many_pings"))
            self.hang_up()

    def _meet_content(self, event: events.DataReceived) -> None:
        self._pings = 0
        self._meet_data(event)

    _MEET: ClassVar[dict[type[events.Event], Callable[[Any, Any], None]]] = {
        **ServedConnection._MEET,
        events.PingReceived: _meet_ping,
        events.DataReceived: _meet_content,
    }

    def _check_idle(self) -> None:
        idle_s = self._habits.idle_s
        assert idle_s is not None
        rest_s = 0.0 if self._exchanges else self._clock.seconds() - self._active_at
        if rest_s < idle_s:
            self.later(idle_s - rest_s, self._check_idle)
        else:
            self.go_away(GoAway(debug=self._habits.idle_debug, close=True))

    def _retire(self) -> None:
        self.go_away(GoAway(debug=b"max_age", graceful=True, close=True))


@implementer(IHandshakeListener)
class ProtocolChoice(Protocol):
    """
    Speaks what ALPN agreed on, once TLS is done.

    :param speak: makes the protocol for each name of ALPN; without ALPN it is "http/1.1".
    :param agreed: counts them.
    """

    transport: TLSMemoryBIOProtocol  # type: ignore[assignment] # Twisted names a wider type

    def __init__(
        self,
        *,
        speak: Mapping[str, Callable[[], Any]],
        agreed: Counter[str],
        record: Record[GooglePush],
    ) -> None:
        self._speak = speak
        self._agreed = agreed
        self._record = record

    def handshakeCompleted(self) -> None:
        """Hand the connection over."""
        name = (self.transport.negotiatedProtocol or b"http/1.1").decode()
        self._agreed[name] += 1
        self.transport.wrappedProtocol = protocol = self._speak[name]()
        protocol.makeConnection(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note a handshake that failed."""
        self._record.violations.append(f"no handshake: {reason.getErrorMessage()}")
