"""
The record of one call's steps and their times.

A step is stamped when it happens and never changes. The log line and the ``Server-Timing``
header are both made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """One thing that happened; ``note`` is a token for its result, or ""."""

    name: str
    at: float
    note: str = ""

    @property
    def label(self) -> str:
        """The name, with the note behind it."""
        return f"{self.name}({self.note})" if self.note else self.name


class Trace:
    """
    Steps of one PBX request, in order; bounded by the pushes a call may have.

    :param now: gives the seconds of a monotonic clock.
    :ivar provider_ids: the providers' ids of the pushes, for their support.
    """

    __slots__ = ("_now", "_text", "provider_ids", "steps")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.steps: list[Step] = [Step("received", now())]
        self.provider_ids: list[str] = []
        self._text = ""

    def mark(self, step: str, at: float | None = None, note: str = "") -> None:
        """Add ``step`` with the current time, or with ``at`` if that is known better."""
        self.steps.append(Step(step, self._now() if at is None else at, note))
        self._text = ""

    @property
    def began_at(self) -> float:
        """When the request was received."""
        return self.steps[0].at

    def time_of(self, step: str) -> float | None:
        """When ``step`` happened first; None: it did not."""
        return next((known.at for known in self.steps if known.name == step), None)

    def durations_ms(self) -> list[tuple[Step, float]]:
        """How long each step took from the one before it, in milliseconds; never negative."""
        # A loop: a list comprehension over pairs takes three times as long.
        durations, before = [], self.steps[0].at
        for step in self.steps[1:]:
            at = step.at
            durations.append((step, (at - before) * 1000 if at > before else 0.0))
            before = at
        return durations

    def text(self) -> str:
        """The steps as the log and the history have them: name, milliseconds and note of each."""
        if not self._text:
            parts = [
                f"{name}({note})={ms:.1f}" if note else f"{name}={ms:.1f}"
                for (name, _, note), ms in self.durations_ms()
            ]
            self._text = " ".join(parts)
        return self._text

    def fields(self) -> list[dict[str, object]]:
        """The steps as the JSON log has them, with milliseconds as numbers."""
        return [
            {"step": step.name, "milliseconds": round(ms, 1)}
            | ({"note": step.note} if step.note else {})
            for step, ms in self.durations_ms()
        ]

    def server_timing(self) -> str:
        """The value of a Server-Timing header (W3C Server Timing, section 2)."""
        parts = [
            f"{name};dur={ms:.2f};desc={note}" if note else f"{name};dur={ms:.2f}"
            for (name, _, note), ms in self.durations_ms()
        ]
        total_ms = max(0.0, self._now() - self.began_at) * 1000
        parts.append(f"total;dur={total_ms:.2f}")
        return ", ".join(parts)
