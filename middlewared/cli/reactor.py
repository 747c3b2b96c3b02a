"""
Commands that need the daemon's parts, but not the daemon.

The one invariant: a command runs the reactor once, and its failure is raised to the
caller after everything was closed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from middlewared.clock import measure_monotonically
from middlewared.config import Config
from middlewared.service.implementations import choose_database


def run_in_reactor(work: Callable[[Any], Coroutine[Deferred[Any], Any, int]]) -> int:
    """Run ``work(reactor)`` to its end in the global reactor; its result or exception."""
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    measure_monotonically(reactor)
    results: list[int | Failure] = []

    def end(result: int | Failure) -> None:
        results.append(result)
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(work(reactor)).addBoth(end))
    reactor.run()
    if not results:
        raise KeyboardInterrupt
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


def migrate(config: Config) -> int:
    """Bring the schema of the database up to date; 0 when it is."""

    async def work(reactor: Any) -> int:
        registry = choose_database(config, reactor=reactor)
        try:
            await registry.start()
        finally:
            await registry.stop()
        return 0

    return run_in_reactor(work)
