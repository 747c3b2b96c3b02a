"""
Work that nobody waits for at the moment it starts.

The one invariant: no such work is lost sight of: its failure is logged, and a stop
waits for it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure


class Background:
    """Keeps running work. Bounded by what starts it: calls, registrations, timers."""

    log = Logger()

    def __init__(self) -> None:
        self._running: set[Deferred[None]] = set()

    def run(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Start ``work`` now; its failure goes to the log."""
        running = Deferred.fromCoroutine(work)
        running.addErrback(self._failed)
        if not running.called:
            self._running.add(running)
            running.addBoth(lambda _: self._running.discard(running))

    async def finish(self) -> None:
        """Wait until all of it has ended."""
        while self._running:
            await DeferredList(list(self._running))

    def cancel(self) -> None:
        """Cancel what still runs."""
        for running in list(self._running):
            running.cancel()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("background work failed", failure)
