"""
When Python's garbage collector runs.

A call leaves nothing behind that only the collector could free. The collector, however, counts
allocations, and by its own rules walks all waiting calls again and again. Meanwhile the
event loop stands still, on a shared core for many times the CPU time that this takes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

from twisted.internet.task import LoopingCall

from middlewared.clock import Clock

# A collection of that many new objects takes about 6 ms of CPU time; objects that survive it
# are left to FullCollections.
NEW_OBJECTS = 5_000
NEVER = 1_000_000_000
CHECK_EVERY_S = 60.0
# A full collection takes about 70 us for each waiting call.
FEW_CALLS = 100
LONGEST_S = 3600.0
# Since the last full one: at most 2,000,000 objects of garbage, about 200 MB.
MOST_COLLECTIONS = 400


class FullCollections:
    """
    Frees what dropped connections and failures have left behind: while few calls wait, and in
    any case after an hour or when there may be a lot of it.

    :param waiting: how many calls wait.
    """

    def __init__(self, *, clock: Clock, waiting: Callable[[], int]) -> None:
        self._clock = clock
        self._waiting = waiting
        self._collected_at = clock.seconds()

    def start(self) -> None:
        """Called when the daemon runs; objects that exist by then are never walked again."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS, NEVER, NEVER)
        checking = LoopingCall(self._check)
        checking.clock = self._clock  # type: ignore[assignment]
        checking.start(CHECK_EVERY_S, now=False)

    def _check(self) -> None:
        now = self._clock.seconds()
        due = now - self._collected_at >= LONGEST_S or gc.get_count()[1] >= MOST_COLLECTIONS
        if due or self._waiting() <= FEW_CALLS:
            self._collected_at = now
            gc.collect()
