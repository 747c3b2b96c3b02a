"""
How long a device registry takes: `python bench/devices.py FOLDER|URL`.

FOLDER is where to make a SQLite file; a `postgresql://` URL names an empty database, and
`postgresql` alone starts a server of the tests'. Prints the latency of single look-ups
(for SQLite also on a connection in the reactor's thread, for comparison), of look-ups
during a burst of registrations, and the rate of committed registrations, each with the
CPU time it took in this process.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults

sys.path.insert(0, str(Path(__file__).parents[1]))

from middlewared.database.postgres_database import PostgresDatabase
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.devices import queries
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
from middlewared.model import Device, Platform
from tests.servers.postgres import shared_server

Registry: TypeAlias = SqliteRegistry | PostgresRegistry
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


async def main(registry: Registry, path: Path | None) -> None:
    await registry.start()
    for first in range(1, DEVICES, 1000):
        await burst(registry, range(first, first + 1000))
    await timed("find", 5000, registry.find)
    if path is not None:
        await find_in_the_reactor(path)
    start, cpu = time.perf_counter(), time.process_time()
    registering = gatherResults([burst_of_600(registry) for _ in range(5)])
    await timed("find while registering", 200, registry.find)
    await registering
    spent = time.perf_counter() - start
    cpu = time.process_time() - cpu
    print(
        f"3,000 registrations (5 x 600 at once): {spent:.2f} s, CPU {cpu / 3000 * 1e6:.0f} us each"
    )
    start = time.perf_counter()
    for number in range(1, 301):
        await registry.register(device(number))
    spent = time.perf_counter() - start
    print(f"300 registrations one by one: {spent / 300 * 1e3:.2f} ms each")
    await registry.stop()


async def find_in_the_reactor(path: Path) -> None:
    """What a look-up would cost without a thread."""
    connection = sqlite3.connect(path, isolation_level=None)

    async def find(number: int) -> object:
        return queries.from_row(connection.execute(queries.FIND, (number,)).fetchone())

    await timed("find in the reactor's thread", 5000, find)
    connection.close()


def burst_of_600(registry: Registry) -> Deferred[None]:
    return Deferred.fromCoroutine(burst(registry, range(1, 601)))


async def burst(registry: Registry, numbers: range) -> None:
    await gatherResults([Deferred.fromCoroutine(registry.register(device(n))) for n in numbers])


if __name__ == "__main__":
    where = sys.argv[1]
    if where == "postgresql":
        server = shared_server()
        where = server.url(server.create_database())
    with tempfile.TemporaryDirectory(dir=None if "://" in where else where) as folder:
        path = None if "://" in where else Path(folder) / "devices.sqlite3"
        registry: Registry = (
            SqliteRegistry(database=SqliteDatabase(path=path, reactor=reactor, timeout_s=30))
            if path
            else PostgresRegistry(
                database=PostgresDatabase(url=where, reactor=reactor, timeout_s=30)
            )
        )
        task.react(lambda _: Deferred.fromCoroutine(main(registry, path)))
