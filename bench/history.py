"""
How long the history takes: `python bench/history.py FOLDER|FILE|URL [CALLS]`.

FOLDER is where to make a SQLite file, FILE a SQLite file to make and keep; a `postgresql://` URL
names an empty database, and `postgresql` alone starts a server of the tests'. Makes CALLS calls
(1,000,000) of the last two weeks, and prints what keeping one costs, how long each search takes,
and how long the steps of a purge of a tenth of the calls take, with the latency of look-ups of a
device and of registrations meanwhile.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

sys.path.insert(0, str(Path(__file__).parents[1]))

from middlewared.database.postgres_database import PostgresDatabase
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
from middlewared.history import history_rows
from middlewared.history.history_purge import HistoryPurge
from middlewared.history.history_writer import BATCH
from middlewared.history.interface import (
    CallRecord,
    CallSearch,
    Hindrance,
    HistoryStore,
    KeptAnswer,
    KeptPush,
    Retention,
)
from middlewared.history.postgres_history import PostgresHistory
from middlewared.history.sqlite_history import SqliteHistory
from middlewared.model import Device, Platform
from middlewared.service.storage import Storage
from tests.servers.postgres import shared_server

clock = cast(Any, reactor)
ACCOUNTS = 20_000
DAYS = 14
SEARCHES = 30
OUTCOMES = ("answered",) * 80 + ("timeout",) * 12 + ("no-device",) * 4 + ("unavailable",) * 3
RARE = ("push-failed", "token-dead", "hung-up")
APPS = (("com.example.phone", "apns"),) * 60 + (("com.example.phone", "android"),) * 39
RARE_APPS = (("com.example.other", "gcm"),)
KEPT = Retention(days=DAYS + 1, max_calls=10_000_000, numbers="last3")


def call(number: int, calls: int, now: float) -> CallRecord:
    """Call ``number`` of ``calls``, which are spread over the days."""
    start = now - (calls - number) / calls * DAYS * 86_400
    outcome = random.choice(OUTCOMES if random.random() < 0.99 else RARE)
    app, platform = random.choice(APPS if random.random() < 0.99 else RARE_APPS)
    key = f"{random.getrandbits(128):032x}"
    answered = outcome in ("answered", "unavailable")
    return CallRecord(
        unique_key=key,
        call_id=key if random.random() < 0.5 else f"{number}@pbx.example",
        sip_user_id=str(100_000_000 + random.randrange(ACCOUNTS)),
        app=app,
        platform=platform,
        start=start,
        outcome=outcome,
        phonenumber=f"+316{random.randrange(10**8):08}",
        caller_id="A Caller",
        steps="device=0.5 sent=0.1 push(accepted)=41.2 answer=802.5 replied=0.1",
        pushes=[KeptPush(1, start, "accepted", "", 41.2, False, key[:36])],
        answer=KeptAnswer(start + 0.8, True, True, None, key[:8]) if answered else None,
        wait_ms=4000.0,
        hindrance=Hindrance.NONE,
        token=key[:8],
    )


async def fill(history: HistoryStore, calls: int) -> CallRecord:
    """Make the calls, in batches as the daemon writes them; one of them."""
    now, encoding_s, wrote_at, cpu = time.time(), 0.0, time.perf_counter(), 0.0
    for first in range(0, calls, BATCH):
        records = [call(n, calls, now) for n in range(first, min(first + BATCH, calls))]
        before = time.perf_counter()
        rows = [history_rows.call_row(record, "daemon:1", "last3") for record in records]
        encoding_s += time.perf_counter() - before
        before_cpu = time.process_time()
        await history.add_calls(rows)
        cpu += time.process_time() - before_cpu
    seconds = time.perf_counter() - wrote_at
    print(
        f"{calls} calls made in {seconds:.0f} s; for each of them:"
        f" encoding {encoding_s / calls * 1e6:.1f} us,"
        f" CPU of writing in this process {cpu / calls * 1e6:.1f} us"
    )
    return records[0]


async def timed(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Print how long ``work`` takes, the first time and then."""
    times = []
    for _ in range(SEARCHES):
        began = time.perf_counter()
        await work()
        times.append((time.perf_counter() - began) * 1000)
    first, *later = times
    print(f"{name:<40} {first:8.1f} {statistics.median(later):8.1f} {max(later):8.1f}")


async def search_all(history: HistoryStore, known: CallRecord) -> None:
    """Each search, for a page of 50."""
    searches = {
        "newest": CallSearch(),
        "account": CallSearch(sip_user_id=known.sip_user_id),
        "call_id": CallSearch(call_id=known.call_id),
        "unique_key": CallSearch(unique_key=known.unique_key),
        "number (3 digits)": CallSearch(number=known.phonenumber),
        "outcome answered": CallSearch(outcome="answered"),
        "outcome timeout": CallSearch(outcome="timeout"),
        "rare outcome": CallSearch(outcome="token-dead"),
        "app": CallSearch(app="com.example.phone"),
        "rare app": CallSearch(app="com.example.other"),
        "platform": CallSearch(platform="android"),
        "rare platform": CallSearch(platform="gcm"),
        "rare app and outcome": CallSearch(app="com.example.other", outcome="timeout"),
        "app and rare outcome": CallSearch(app="com.example.phone", outcome="hung-up"),
        "time": CallSearch(since=known.start - 3600, until=known.start),
        "any text: an account": CallSearch(text=known.sip_user_id, or_number=True),
        "any text: nothing known": CallSearch(text="nothing", or_number=True),
        "any text: a number": CallSearch(text=known.phonenumber, or_number=True),
    }
    print(f"{'search, ms':<40} {'first':>8} {'median':>8} {'max':>8}")
    for name, wanted in searches.items():
        await timed(name, lambda wanted=wanted: history.search(wanted))  # type: ignore[misc]
    page = await history.search(CallSearch())
    for _ in range(100):
        page = await history.search(CallSearch(before=page.next or ""))
    mark = page.next or ""
    await timed("page 101", lambda: history.search(CallSearch(before=mark)))
    await timed("one call", lambda: history.find_call(known.unique_key))
    day_ago = time.time() - 86_400
    await timed("figures of a day", lambda: history.call_figures(day_ago))
    await timed("last answered", lambda: history.last_answered(known.sip_user_id))


class TimedSteps:
    """A store whose purge steps are timed."""

    def __init__(self, history: HistoryStore) -> None:
        self._history = history
        self.steps_ms: list[float] = []
        self.deleted = 0

    async def purge_step(self, table: str, most: int) -> int:
        began = time.perf_counter()
        deleted = await self._history.purge_step(table, most)
        self.steps_ms.append((time.perf_counter() - began) * 1000)
        self.deleted += deleted
        return deleted


async def latencies(
    work: Callable[[], Awaitable[object]], until: Callable[[], bool]
) -> list[float]:
    """How many milliseconds ``work`` takes, again and again."""
    times = []
    while not until():
        began = time.perf_counter()
        await work()
        times.append((time.perf_counter() - began) * 1000)
        await deferLater(clock, 0.005)
    return times


async def purge(storage: Storage, calls: int) -> None:
    """Purge a tenth of the calls while devices are looked up and registered."""
    storage.history.reconfigure(attrs.evolve(KEPT, max_calls=calls - calls // 10))
    device = Device(1, Platform.APNS, "com.example.phone", "t" * 64)
    await storage.devices.register(device)
    timed_steps = TimedSteps(storage.history)
    purging = HistoryPurge(store=cast(HistoryStore, timed_steps), clock=clock)
    began = time.perf_counter()
    purging.start()

    def done() -> bool:
        return timed_steps.deleted >= calls // 10

    looking = Deferred.fromCoroutine(latencies(lambda: storage.devices.find(1), done))
    registering = Deferred.fromCoroutine(latencies(lambda: storage.devices.register(device), done))
    found, registered = await looking, await registering
    print(f"purge of {timed_steps.deleted} calls in {time.perf_counter() - began:.1f} s")
    show("purge step", timed_steps.steps_ms)
    show("look-up of a device meanwhile", found)
    show("registration meanwhile", registered)
    await purging.stop()


def show(name: str, times_ms: Sequence[float]) -> None:
    times = sorted(times_ms)
    p99 = times[len(times) * 99 // 100]
    middle = statistics.median(times)
    print(f"{name}: median {middle:.1f} ms, p99 {p99:.1f} ms, max {times[-1]:.1f} ms")


async def main(storage: Storage, calls: int, server: PostgresDatabase | None) -> None:
    await storage.devices.start()
    known = await fill(storage.history, calls)
    if server is not None:
        await server.change("analyze calls")  # as autovacuum does some time
    await search_all(storage.history, known)
    await purge(storage, calls)
    await storage.devices.stop()


def storage_in(path: Path) -> Storage:
    file = SqliteDatabase(path=path, reactor=clock, timeout_s=30)
    return Storage(SqliteRegistry(database=file), SqliteHistory(database=file, settings=KEPT))


def storage_at(server: PostgresDatabase) -> Storage:
    devices = PostgresRegistry(database=server)
    return Storage(devices, PostgresHistory(database=server, settings=KEPT))


def run(storage: Storage, calls: int, server: PostgresDatabase | None = None) -> None:
    task.react(lambda _: Deferred.fromCoroutine(main(storage, calls, server)))


if __name__ == "__main__":
    where, calls = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    if where == "postgresql":
        where = shared_server().url(shared_server().create_database())
    if "://" in where:
        server = PostgresDatabase(url=where, reactor=reactor, timeout_s=30)
        run(storage_at(server), calls, server)
    if not Path(where).is_dir():
        run(storage_in(Path(where)), calls)
    with tempfile.TemporaryDirectory(dir=where) as folder:
        run(storage_in(Path(folder) / "history.sqlite3"), calls)
