"""
Simulator, HTTP/2: one request on its stream, from its first header to its answer.

A stream answers at most once, and plays its script to a step that
waits, to one that ends it, or to the script's end.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import attrs

from middlewared.simulator import scripts
from middlewared.simulator.http2 import frame_steps
from middlewared.simulator.http2.frame_steps import GoAway

Fields: TypeAlias = Sequence[tuple[str, str]]


class Wire(Protocol):
    """What a script can do to its connection. Nothing is written before the turn ends."""

    def send_headers(self, stream_id: int, fields: Fields, *, end_stream: bool = False) -> None:
        """Send a header block."""

    def send_part(self, stream_id: int, data: bytes) -> None:
        """Send what the windows allow of ``data`` now, and never the rest."""

    def send_body(self, stream: ServedStream[Any]) -> None:
        """Send what the windows allow of the body, the rest when they open, then the trailers."""

    def finish(self, stream: ServedStream[Any]) -> None:
        """Forget a stream that has ended."""

    def reset_stream(self, stream: ServedStream[Any], code: int) -> None:
        """Send RST_STREAM."""

    def go_away(self, order: GoAway) -> None:
        """Send GOAWAY; the streams it leaves out are never answered."""

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


WireT = TypeVar("WireT", bound=Wire)


@attrs.define(eq=False)
class ServedStream(abc.ABC, Generic[WireT]):
    """``fields`` are the request's header fields as they came, ``unsent`` body to be sent."""

    stream_id: int
    fields: Fields
    wire: WireT
    body: bytearray = attrs.field(factory=bytearray)
    steps: Iterator[Any] = attrs.field(factory=lambda: iter(()))
    unsent: bytes = b""
    answered: bool = False
    over: bool = False
    trailers: Fields = ()
    padding: int | None = None
    _extra: Fields = ()

    def proceed(self) -> None:
        """Take steps until one waits or ends the stream."""
        if self.over:
            return
        for step in self.steps:
            if self._take(step):
                return
        self._run_out()

    @abc.abstractmethod
    def _run_out(self) -> None:
        """Answer, since no step did."""

    @property
    def _is_plain(self) -> bool:
        """Whether no step has changed the shape of the answer."""
        return not self._extra and not self.trailers and self.padding is None

    def _take(self, step: Any) -> bool:
        """Take one step; True when the stream now waits or has ended."""
        match step:
            case frame_steps.Interim(status) | frame_steps.Head(status):
                self.wire.send_headers(self.stream_id, [(":status", str(status))])
            case frame_steps.Part(data):
                self.wire.send_part(self.stream_id, data)
            case frame_steps.StreamLimit(limit):
                self.wire.set_stream_limit(limit)
            case frame_steps.RawFrames(data):
                self.wire.write_raw(data)
            case frame_steps.GoAway():
                self.wire.go_away(step)
            case frame_steps.ExtraHeaders(fields):
                self._extra = fields
            case frame_steps.Trailers(fields):
                self.trailers = fields
            case frame_steps.Padding(length):
                self.padding = length
            case _:
                self._pause(step)
                return True
        return self.over

    def _pause(self, step: Any) -> None:
        """Take a step after which the script does not go on, or not now."""
        match step:
            case scripts.Delay(seconds):
                self.wire.later(seconds, self.proceed)
            case scripts.Stall(acknowledge_pings):
                if not acknowledge_pings:
                    self.wire.fall_silent()
            case frame_steps.ResetStream(code):
                self.wire.reset_stream(self, code)
            case scripts.ResetConnection():
                self.wire.abort()
            case scripts.HangUp():
                self.wire.hang_up()
            case _:
                raise TypeError(f"no step of an HTTP/2 server: {step}")

    def _respond(self, head: Fields, body: bytes) -> None:
        """Answer with ``head`` and the steps' header fields, then with ``body``."""
        ends = not body and not self.trailers and self.padding is None
        self.answered = True
        self.unsent = body
        self.wire.send_headers(self.stream_id, [*head, *self._extra], end_stream=ends)
        if ends:
            self.wire.finish(self)
        else:
            self.wire.send_body(self)
