"""
The two clocks: one for waits, deadlines and durations, and one for what others read.

:class:`Clock` restates Twisted's IReactorTime as a typing Protocol, which mypy can check.
In the daemon its seconds are monotonic (:func:`measure_monotonically`): no one sets them,
and they have no meaning in another process. What leaves the process (start times,
expirations, rows, log lines) is stamped by a :data:`WallClock`, which may step at any time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

WallClock: TypeAlias = Callable[[], float]
"""Epoch seconds, as others read them; may step in either direction."""

wall_clock: WallClock = time.time


def iso_time(epoch_s: float) -> str:
    """ISO 8601, UTC, with milliseconds."""
    # Rounded to microseconds as datetime does, the second apart: a product would lose digits.
    fraction, whole = math.modf(epoch_s)
    more, microsecond = divmod(round(fraction * 1_000_000), 1_000_000)
    return f"{_iso_second(int(whole) + more)}.{microsecond // 1000:03d}Z"


@lru_cache(maxsize=16)
def _iso_second(epoch_s: int) -> str:
    """Lines of a busy log have the second in common."""
    return datetime.fromtimestamp(epoch_s, UTC).replace(tzinfo=None).isoformat()


class DelayedCall(Protocol):
    """The result of ``callLater``; see :class:`twisted.internet.interfaces.IDelayedCall`."""

    def cancel(self) -> None: ...

    def active(self) -> bool: ...

    def reset(self, secondsFromNow: float) -> None: ...


class Clock(Protocol):
    """The clock of waits, deadlines and durations."""

    def seconds(self) -> float:
        """Seconds since some moment in the past; they never step."""

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> Any:
        """Call ``callable`` in ``delay`` seconds; returns a :class:`DelayedCall`."""


def measure_monotonically(reactor: Any) -> None:
    """
    Give ``reactor`` a clock that no one sets, for its timers and its ``seconds``.

    Twisted's own is ``time.time``, so each of its timers would follow a step of the wall
    clock. Call this before anything is scheduled.
    """
    reactor.seconds = time.monotonic
