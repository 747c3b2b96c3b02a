"""
Counts calls by minute, app and platform: what the console shows of the last hours.

A minute is kept in memory until it is over; then it is one row, whatever the number of calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from middlewared.clock import Clock, DelayedCall, WallClock
from middlewared.history.interface import WAKEUP_BOUNDS_S, CallFigures, CallRecord

MINUTE_S = 60.0
MOST_KEYS = 1000
"""Apps and platforms that are counted in a minute, each for itself; the rest is not."""
_BOUNDS = (*map(str, WAKEUP_BOUNDS_S), "inf")


@attrs.frozen
class _Counts:
    outcomes: Counter[str] = attrs.field(factory=Counter)
    wakeups: Counter[str] = attrs.field(factory=Counter)


class CallCounter:
    """
    :param daemon: the name of this daemon.
    :param keep: takes the figures of each minute that is over.
    """

    def __init__(
        self, *, clock: Clock, wall: WallClock, daemon: str, keep: Callable[[CallFigures], None]
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._daemon = daemon
        self._keep = keep
        self._minute = 0.0
        self._counts: dict[tuple[str, str], _Counts] = {}
        self._passed_on: Sequence[CallFigures] = ()
        self._timer: DelayedCall | None = None

    def count(self, record: CallRecord) -> None:
        """A call has ended."""
        if self._timer is None:
            now = self._wall()
            self._minute = now - now % MINUTE_S
            self._timer = self._clock.callLater(MINUTE_S - now % MINUTE_S, self.flush)
        key = (record.app, record.platform)
        counts = self._counts.get(key)
        if counts is None:
            if len(self._counts) >= MOST_KEYS:
                return
            counts = self._counts[key] = _Counts()
        counts.outcomes[record.outcome] += 1
        wakeup_s = wakeup_time_s(record)
        if wakeup_s is not None:
            counts.wakeups[_BOUNDS[bisect_left(WAKEUP_BOUNDS_S, wakeup_s)]] += 1

    def latest(self) -> Sequence[CallFigures]:
        """The minute that is not over, and the one that was passed on last: it may still wait."""
        return [*self._passed_on, *self._current()]

    def _current(self) -> Sequence[CallFigures]:
        return [
            CallFigures(
                at=self._minute,
                daemon=self._daemon,
                app=app,
                platform=platform,
                outcomes=dict(counts.outcomes),
                wakeups=dict(counts.wakeups),
            )
            for (app, platform), counts in self._counts.items()
        ]

    def flush(self) -> None:
        """Pass the minute on."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._passed_on = self._current()
        for figures in self._passed_on:
            self._keep(figures)
        self._counts = {}


def wakeup_time_s(record: CallRecord) -> float | None:
    """From the first accepted push to the answer; None: it was not both pushed and answered."""
    if record.answer is None:
        return None
    accepted_at = record.accepted_at
    return None if accepted_at is None else max(0.0, record.answer.time - accepted_at)
