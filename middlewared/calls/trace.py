"""
The record of one call's steps and their times.

The one invariant: a step is stamped when it happened and never moved. The log line and
the ``Server-Timing`` header are both read from it.
"""

from __future__ import annotations

from collections.abc import Callable


class Trace:
    """
    Steps of one PBX request, in order.

    :param now: epoch seconds; called once for each step.
    """

    __slots__ = ("_now", "steps")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.steps: list[tuple[str, float]] = [("received", now())]

    def mark(self, step: str, at: float | None = None) -> None:
        """Stamp ``step`` with the present time, or with ``at`` when it is known better."""
        self.steps.append((step, self._now() if at is None else at))

    def time_of(self, step: str) -> float | None:
        """When ``step`` happened first, None when it did not."""
        return next((at for name, at in self.steps if name == step), None)

    def durations_ms(self) -> list[tuple[str, float]]:
        """How long each step took from the one before it, in milliseconds; never negative."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return [(name, max(0.0, at - before) * 1000) for (_, before), (name, at) in pairs]

    def total_ms(self) -> float:
        """Milliseconds from the request to now."""
        return max(0.0, self._now() - self.steps[0][1]) * 1000

    def server_timing(self) -> str:
        """The value of a Server-Timing header (W3C Server Timing, section 2)."""
        parts = [f"{name};dur={ms:.2f}" for name, ms in self.durations_ms()]
        return ", ".join([*parts, f"total;dur={self.total_ms():.2f}"])
