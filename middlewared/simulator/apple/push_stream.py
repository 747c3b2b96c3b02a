"""
Simulator, Apple: one push on its stream, from its first header to its answer.

A push is accepted when its script runs out, and reaches the phone at most once.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, Protocol

import attrs

from middlewared.simulator import scripts
from middlewared.simulator.apple import faults
from middlewared.simulator.apple.faults import Reject
from middlewared.simulator.http2.served_stream import Fields, ServedStream, Wire
from middlewared.simulator.record import ReceivedPush, Record


class AppleWire(Wire, Protocol):
    """What a push does to its connection beyond any other request."""

    def accept(self, stream_id: int, apns_id: str) -> bool:
        """End the stream with a plain 200, if that can be done."""

    def accepted(self) -> None:
        """A push was accepted: a stream limit of 1 ends."""

    def rejected(self) -> None:
        """A push was rejected: the stream limit may fall, where the behaviour has one for it."""


@attrs.define(eq=False)
class PushStream(ServedStream[AppleWire]):
    """One push; ``push`` is None until it is validated."""

    record: Record[ReceivedPush] = attrs.field(kw_only=True)
    push: ReceivedPush | None = None
    _delivered: bool = False

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
        self._respond(self._head(answer.status, fields), body)

    def _run_out(self) -> None:
        """Accept the push."""
        self._deliver()
        self.wire.accepted()
        if self._is_plain and self.wire.accept(self.stream_id, self._apns_id()):
            self.wire.finish(self)
        else:
            self._respond(self._head(200), b"")

    def _take(self, step: Any) -> bool:
        match step:
            case scripts.Deliver():
                self._deliver()
                return self.over
            case faults.Reject():
                self.reject(step)
                return True
        return super()._take(step)

    def _deliver(self) -> None:
        if self.push is not None and not self._delivered:
            self._delivered = True
            self.record.deliver(self.push)

    def _apns_id(self) -> str:
        """The id to echo, or a fresh one."""
        given = next((value for name, value in self.fields if name == "apns-id"), None)
        return given or str(uuid.uuid4())

    def _head(self, status: int, more: Fields = ()) -> Fields:
        return [(":status", str(status)), ("apns-id", self._apns_id()), *more]
