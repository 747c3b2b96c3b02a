"""
When Python's garbage collector runs.

A call leaves nothing behind that only the collector could free. Yet the collector counts
allocations, and by its own rules walks all waiting calls again and again: it stops the
event loop, on a shared core for many times the CPU time that it takes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

from twisted.internet.task import LoopingCall

from middlewared.clock import Clock

# A collection of new objects takes about 6 ms of CPU time; what survives it is left to
# FullCollections.
NEW_OBJECTS = 5_000
NEVER = 1_000_000_000
LOOK_EVERY_S = 60.0
# A full collection takes about 70 us for each waiting call.
FEW_CALLS = 100
LONGEST_S = 3600.0
# Since the last full one: at most 2,000,000 objects of garbage, some 200 MB.
MOST_COLLECTIONS = 400


class FullCollections:
    """
    Frees what dropped connections and failures have left behind while few calls wait; in
    any case after an hour, or when there may be much of it.

    :param waiting: how many calls wait.
    """

    def __init__(self, *, clock: Clock, waiting: Callable[[], int]) -> None:
        self._clock = clock
        self._waiting = waiting
        self._collected_at = clock.seconds()

    def start(self) -> None:
        """Called when the daemon runs; what is there by now stays, and is never walked."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS, NEVER, NEVER)
        looking = LoopingCall(self._look)
        looking.clock = self._clock  # type: ignore[assignment]
        looking.start(LOOK_EVERY_S, now=False)

    def _look(self) -> None:
        now = self._clock.seconds()
        due = now - self._collected_at >= LONGEST_S or gc.get_count()[1] >= MOST_COLLECTIONS
        if due or self._waiting() <= FEW_CALLS:
            self._collected_at = now
            gc.collect()
