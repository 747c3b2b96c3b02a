"""
Running the reactor for one command.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from middlewared.clock import measure_monotonically


def run_in_reactor(work: Callable[[Any], Coroutine[Deferred[Any], Any, int]]) -> int:
    """
    Run ``work(reactor)`` in the global reactor, which can be run only once in a process.

    :return: the result of ``work``; its exception is raised.
    :raises KeyboardInterrupt: the reactor was stopped before that.
    """
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
