"""
What the push clients that are compared share: the load, and what it cost.

It runs in venvs that have nothing of ours, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import resource
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

Send = Callable[[int], Awaitable[bool]]
"""Sends the push, or the batch of pushes, of a number; whether all were accepted."""

Together = Callable[[Iterable[Coroutine[Any, Any, None]]], Awaitable[None]]
"""Runs coroutines at once, to the end of the last."""


class Load:
    """Sends until ``count`` were answered."""

    def __init__(self, send: Send, count: int) -> None:
        self.took = array("d", bytes(8 * count))
        """Allocated beforehand, so that the memory used later is the client's."""
        self.failed = 0
        self._send = send
        self._numbers = iter(range(count))

    def workers(self, in_flight: int) -> Iterable[Coroutine[Any, Any, None]]:
        """What must run at once to keep so many under way."""
        return (self._work() for _ in range(in_flight))

    async def _work(self) -> None:
        for number in self._numbers:
            began = time.perf_counter()
            accepted = await self._send(number)
            self.took[number] = time.perf_counter() - began
            self.failed += not accepted


async def measure(
    send: Send,
    count: int,
    in_flight: int,
    together: Together,
    *,
    warm_up: int = 2_000,
    batch: int = 1,
) -> None:
    """
    Warm up, then push; print what it cost as one JSON object.

    :param batch: how many pushes each ``send`` makes.
    """
    at_once = in_flight // batch
    await together(Load(send, min(warm_up, count) // batch).workers(at_once))
    load = Load(send, count // batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    await together(load.workers(at_once))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = sorted(load.took)
    result = {
        "pushes": len(took) * batch,
        "failed": load.failed,
        "wall_s": wall,
        "cpu_s": cpu,
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
        "rss_kb": after,
        "rss_before_kb": before,
    }
    print(json.dumps(result))
