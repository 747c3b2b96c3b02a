"""
A scene as it was played: its steps for the time-line, and its row of the table.

All times are of one clock, that of the demo's process, in which all peers are; only the look-up
of the device is the daemon's own figure, from the Server-Timing header.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from middlewared.demo.scenes import Scene
from middlewared.demo.summary import Ending
from middlewared.demo.timeline import Event
from middlewared.simulator.pbx import CallResult
from middlewared.simulator.phone import Phone
from middlewared.simulator.record import AnyPush, ReceivedPush


@attrs.frozen
class Registration:
    """When the phone of a scene registered, how long that took, and the daemon's status."""

    at: float
    took_s: float
    status: int


@attrs.frozen
class Played:
    """
    One scene, over.

    ``pushes`` reached the phone, ``refused`` did not. ``cancelled``: the PBX's DELETE.
    """

    scene: Scene
    results: Sequence[CallResult]
    phone: Phone | None = None
    registration: Registration | None = None
    pushes: Sequence[AnyPush] = ()
    refused: Sequence[AnyPush] = ()
    cancelled: CallResult | None = None

    @property
    def began_at(self) -> float:
        """When the PBX placed the call."""
        return self.results[0].placed_at

    @property
    def ended_as_announced(self) -> bool:
        """Whether all requests had the scene's outcome, and the app could read its pushes."""
        scene = self.scene
        good = all((r.outcome, r.status) == (scene.outcome, scene.status) for r in self.results)
        return good and not (self.phone is not None and self.phone.complaints)

    def ending(self, number: str) -> Ending:
        """The row of the table."""
        first = self.results[0]
        answers = self.phone.answers if self.phone is not None else []
        answered = bool(answers and self.pushes)
        return Ending(
            number=number,
            title=self.scene.title,
            outcome=first.outcome,
            reply=first.body,
            wakeup_s=answers[0].sent_at - self.pushes[0].received_at if answered else None,
            ack_ms=first.after_answer_ms if answered else None,
            total_s=first.answered_at - first.placed_at,
            expected=self.ended_as_announced,
        )

    def events(self) -> list[Event]:
        """The steps, in any order."""
        return [
            *self._registered(),
            *self._requests(),
            *self._looked_up(),
            *self._pushed(),
            *self._answered(),
        ]

    def _registered(self) -> Iterator[Event]:
        if self.phone is not None and self.registration is not None:
            route = f"POST /api/{self.phone.platform}-device/"
            dnd = " dnd=true" if self.scene.fields.get("dnd") else ""
            took_ms = self.registration.took_s * 1000
            what = f"{route}{dnd}: {self.registration.status} in {took_ms:.1f} ms"
            yield Event(self.registration.at, "phone", what)

    def _requests(self) -> Iterator[Event]:
        for n, result in enumerate(self.results):
            again = " again, same call_id" if n else ""
            yield Event(result.placed_at, "PBX", f"POST /api/incoming-call/{again}")
            reply = f"gets {result.status} {result.body}, {result.outcome}"
            yield Event(result.answered_at, "PBX", reply)
        if self.cancelled is not None:
            yield Event(self.cancelled.placed_at, "PBX", "DELETE /api/incoming-call/")

    def _looked_up(self) -> Iterator[Event]:
        took_ms = self.results[0].server_timing_ms.get("device")
        if took_ms is not None:
            what = "finds the phone's push token"
            if self.scene.outcome == "no-device":
                what = "finds no phone" if self.phone is None else "finds the phone: do not disturb"
            yield Event(self.began_at + took_ms / 1000, "daemon", what)

    def _pushed(self) -> Iterator[Event]:
        for push in self.refused:
            fault = self.scene.fault
            if fault is not None:
                what = f"refuses the push: {fault.status} {fault.reason}"
                yield Event(push.received_at, "Apple", what)
        for push in self.pushes:
            attempt = int(push.data["attempt"])
            what = f"delivers push {attempt} to the phone"
            yield Event(push.received_at, delivered_by(push), what)
            yield Event(push.received_at, "phone", self._reacts(attempt))

    def _reacts(self, attempt: int) -> str:
        reaction = self.scene.reaction
        if reaction.available is None or attempt < reaction.from_attempt:
            return "sleeps on"
        return "wakes: the app starts, registers by SIP" if reaction.available else "wakes: busy"

    def _answered(self) -> Iterator[Event]:
        for sent in self.phone.answers if self.phone is not None else ():
            available = str(sent.available).lower()
            what = f"POST /api/call-response/ available={available}"
            yield Event(sent.sent_at, "phone", what)
            yield Event(sent.answered_at, "phone", f"gets {sent.status}")


def delivered_by(push: AnyPush) -> str:
    """Who delivered a push."""
    return "Apple" if isinstance(push, ReceivedPush) else "Google"
