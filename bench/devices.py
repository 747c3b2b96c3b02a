"""
How long a device registry takes: `PYTHONPATH=. python bench/devices.py [DATABASE FOLDER]`.

Prints the latency of single look-ups (in the registry's thread, and for comparison on
a connection in the reactor's thread), of look-ups during a burst of registrations,
and the rate of committed registrations, each with the CPU time it took.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults

from middlewared.devices import queries
from middlewared.devices.sqlite import SqliteRegistry
from middlewared.model import Device, Platform

DEVICES = 20_000


def device(number: int) -> Device:
    return Device(number, Platform.ANDROID, "com.example.phone", f"{number:0160d}")


async def timed(name: str, count: int, work: Callable[[int], Awaitable[object]]) -> None:
    times = []
    cpu = time.process_time()
    for number in range(1, count + 1):
        start = time.perf_counter()
        await work(number * 7919 % DEVICES + 1)
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    times.sort()
    print(
        f"{name}: median {statistics.median(times) * 1e6:.0f} us,"
        f" p99 {times[count * 99 // 100] * 1e6:.0f} us, max {times[-1] * 1e3:.1f} ms,"
        f" CPU {cpu / count * 1e6:.0f} us each"
    )


async def main(registry: SqliteRegistry, path: Path) -> None:
    await registry.start()
    for first in range(1, DEVICES, 1000):
        await burst(registry, range(first, first + 1000))
    await timed("find, thread", 5000, registry.find)
    direct = sqlite3.connect(path, isolation_level=None)

    async def find_here(number: int) -> object:
        row = direct.execute(queries.FIND, (number,)).fetchone()
        return queries.from_row(row)

    await timed("find, reactor", 5000, find_here)
    start, cpu = time.perf_counter(), time.process_time()
    registering = gatherResults([burst_of_600(registry) for _ in range(5)])
    await timed("find, thread, while registering", 200, registry.find)
    await registering
    spent = time.perf_counter() - start
    cpu = time.process_time() - cpu
    print(
        f"3,000 registrations (5 x 600 at once): {spent:.2f} s, CPU {cpu / 3000 * 1e6:.0f} us each"
    )
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(1, 301):
        await registry.register(device(number))
    spent = time.perf_counter() - start
    print(f"300 registrations one by one: {spent / 300 * 1e3:.2f} ms each (one flush each)")
    direct.close()
    await registry.stop()


def burst_of_600(registry: SqliteRegistry) -> Deferred[None]:
    return Deferred.fromCoroutine(burst(registry, range(1, 601)))


async def burst(registry: SqliteRegistry, numbers: range) -> None:
    await gatherResults([Deferred.fromCoroutine(registry.register(device(n))) for n in numbers])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path = Path(folder) / "devices.sqlite3"
        registry = SqliteRegistry(path=path, reactor=reactor, timeout_s=30)
        task.react(lambda _: Deferred.fromCoroutine(main(registry, path)))
