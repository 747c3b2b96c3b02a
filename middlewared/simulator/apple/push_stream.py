"""
Simulator, Apple: one push on its stream, from its first header to its answer.

An exchange answers at most once, and plays its script to a step that
waits, to one that ends it, or to acceptance.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

import attrs

from middlewared.simulator import scripts
from middlewared.simulator.apple import faults
from middlewared.simulator.apple.faults import GoAway, Reject, Step
from middlewared.simulator.record import ReceivedPush, Record

Fields: TypeAlias = Sequence[tuple[str, str]]


class Wire(Protocol):
    """What a script can do to its connection. Nothing is written before the turn ends."""

    def send_headers(self, stream_id: int, fields: Fields, *, end_stream: bool = False) -> None:
        """Send a header block."""

    def accept(self, stream_id: int, apns_id: str) -> bool:
        """End the stream with a plain 200, if that can be done."""

    def send_body(self, exchange: PushStream) -> None:
        """Send what the windows allow of the body, the rest when they open, then the trailers."""

    def finish(self, exchange: PushStream) -> None:
        """Forget an exchange that has ended."""

    def accepted(self) -> None:
        """A push was accepted: a stream limit of 1 ends."""

    def rejected(self) -> None:
        """A push was rejected: the stream limit may fall, where the behaviour has one for it."""

    def reset_stream(self, exchange: PushStream, code: int) -> None:
        """Send RST_STREAM."""

    def go_away(self, order: GoAway) -> None:
        """Send GOAWAY; the exchanges it leaves out are never answered."""

    def set_stream_limit(self, limit: int) -> None:
        """Send SETTINGS_MAX_CONCURRENT_STREAMS; h2 holds the peer to it once acknowledged."""

    def write_raw(self, data: bytes) -> None:
        """Put bytes on the wire as they are, in their place among h2's frames."""

    def fall_silent(self) -> None:
        """Neither read nor write any more, as behind a broken link."""

    def abort(self) -> None:
        """TCP reset."""

    def hang_up(self) -> None:
        """Close cleanly, after everything written in this iteration."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back, unless the connection has ended."""


@attrs.define(eq=False)
class PushStream:
    """One push. ``fields`` are its header fields as they came, ``unsent`` body to be sent."""

    stream_id: int
    fields: Fields
    wire: Wire
    record: Record[ReceivedPush]
    body: bytearray = attrs.field(factory=bytearray)
    push: ReceivedPush | None = None
    steps: Iterator[Step] = attrs.field(factory=lambda: iter(()))
    unsent: bytes = b""
    answered: bool = False
    over: bool = False
    trailers: Fields = ()
    padding: int | None = None
    _extra: Fields = ()
    _delivered: bool = False

    def proceed(self) -> None:
        """Take steps until one waits or ends the exchange; accept when none did."""
        if self.over:
            return
        for step in self.steps:
            if self._take(step):
                return
        self._deliver()
        self.wire.accepted()
        plain = not self._extra and not self.trailers and self.padding is None
        if plain and self.wire.accept(self.stream_id, self._apns_id()):
            self.wire.finish(self)
        else:
            self._respond(200, b"")

    def reject(self, answer: Reject) -> None:
        """Answer with ``answer``."""
        self.wire.rejected()
        body = answer.body
        if body is None:
            document: dict[str, str | int] = {"reason": answer.reason}
            if answer.timestamp_ms is not None:
                document["timestamp"] = answer.timestamp_ms
            body = json.dumps(document).encode()
        fields = [] if answer.retry_after is None else [("retry-after", answer.retry_after)]
        self._respond(answer.status, body, fields)

    def _take(self, step: Step) -> bool:
        """Take one step; True when the exchange now waits or has ended."""
        match step:
            case scripts.Deliver():
                self._deliver()
            case faults.Interim(status) | faults.Head(status):
                self.wire.send_headers(self.stream_id, [(":status", str(status))])
            case faults.StreamLimit(limit):
                self.wire.set_stream_limit(limit)
            case faults.RawFrames(data):
                self.wire.write_raw(data)
            case faults.GoAway():
                self.wire.go_away(step)
            case faults.ExtraHeaders(fields):
                self._extra = fields
            case faults.Trailers(fields):
                self.trailers = fields
            case faults.Padding(length):
                self.padding = length
            case _:
                self._pause(step)
                return True
        return self.over

    def _pause(self, step: Step) -> None:
        """Take a step after which the script does not go on, or not now."""
        match step:
            case scripts.Delay(seconds):
                self.wire.later(seconds, self.proceed)
            case faults.Reject():
                self.reject(step)
            case scripts.Stall(acknowledge_pings):
                if not acknowledge_pings:
                    self.wire.fall_silent()
            case faults.ResetStream(code):
                self.wire.reset_stream(self, code)
            case scripts.ResetConnection():
                self.wire.abort()
            case scripts.HangUp():
                self.wire.hang_up()

    def _deliver(self) -> None:
        if self.push is not None and not self._delivered:
            self._delivered = True
            self.record.deliver(self.push)

    def _apns_id(self) -> str:
        """The id to echo, or a fresh one."""
        given = next((value for name, value in self.fields if name == "apns-id"), None)
        return given or str(uuid.uuid4())

    def _respond(self, status: int, body: bytes, more: Fields = ()) -> None:
        head = [(":status", str(status)), ("apns-id", self._apns_id())]
        ends = not body and not self.trailers and self.padding is None
        self.answered = True
        self.unsent = body
        self.wire.send_headers(self.stream_id, [*head, *more, *self._extra], end_stream=ends)
        if ends:
            self.wire.finish(self)
        else:
            self.wire.send_body(self)
