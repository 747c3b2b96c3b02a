"""
Work that continues without its caller: its failure is logged, and a stop waits for it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")


def shielded(work: Deferred[T]) -> Deferred[T]:
    """
    The result of ``work`` for its caller, whose cancellation does not reach ``work``.

    ``work`` keeps its result. It keeps a failure only if the caller was cancelled before;
    Twisted then logs it as unhandled, unless someone adds an errback.
    """
    caller: Deferred[T] = Deferred()

    def ended(result: T | Failure) -> T | Failure:
        if caller.called:
            return result
        if isinstance(result, Failure):
            caller.errback(result)
            return None  # type: ignore[return-value]  # the caller has it
        caller.callback(result)
        return result

    work.addBoth(ended)
    return caller


class Background:
    """Keeps the work that runs. Bounded by what starts it: calls, registrations, timers."""

    log = Logger()

    def __init__(self) -> None:
        self._running: set[Deferred[None]] = set()

    def run(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Start ``work`` now; its failure is logged."""
        running = Deferred.fromCoroutine(work)
        running.addErrback(self._failed)
        if not running.called:
            self.keep(running)

    def keep(self, running: Deferred[None]) -> None:
        """Wait for ``running`` in :meth:`finish`; its failure is its owner's."""
        self._running.add(running)

        def ended(result: None) -> None:
            self._running.discard(running)
            return result

        running.addBoth(ended)

    async def finish(self) -> None:
        """Wait until all work has ended."""
        while self._running:
            await DeferredList(list(self._running))

    def cancel(self) -> None:
        """Cancel the work that still runs."""
        for running in list(self._running):
            running.cancel()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("background work failed", failure)
