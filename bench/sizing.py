"""
What one call and one registration cost the parts that all daemons share.

    python bench/sizing.py [--calls 2000] [--daemons 2] [--platform apns]

Two daemons on PostgreSQL and a Redis Cluster of three masters; a phone's answer arrives at
either. Prints a JSON object: counts and bytes, which do not depend on how busy the machine is.
docs/sizing.md has what follows from them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias

from load import Calls, each, paced
from world import Setup, World

Figures: TypeAlias = dict[str, Any]
ACCOUNTS = 1000
HELD = 1000
TABLES = "calls", "call_facts", "call_figures", "device_events", "response_log", "devices"


class SharedParts:
    """The counters of a world's PostgreSQL and Redis Cluster."""

    def __init__(self) -> None:
        from tests.servers import postgres, redis

        self._cluster, self._server = redis.shared_cluster(), postgres.shared_server()
        self._database = ""

    def use(self, url: str) -> None:
        """Count in the database of this URL."""
        self._database = url.rsplit("/", 1)[-1].partition("?")[0]

    def redis(self) -> Counter[str]:
        """
        Of all masters: commands by name (those of scripts too), bytes in and out, copies of
        messages on the cluster's bus, microseconds of CPU.
        """
        counts: Counter[str] = Counter()
        for master in self._cluster.masters:
            for line in master.run("INFO", "commandstats").splitlines():
                name, _, rest = line.partition(":calls=")
                if rest:
                    counts[name.removeprefix("cmdstat_")] += int(rest.partition(",")[0])
            for line in master.run("INFO", "stats").splitlines():
                name, _, figure = line.partition(":")
                if name in ("total_net_input_bytes", "total_net_output_bytes"):
                    counts[name] += int(figure)
            for line in master.run("INFO", "cpu").splitlines():
                name, _, figure = line.partition(":")
                if name in ("used_cpu_sys", "used_cpu_user"):
                    counts["cpu_us"] += round(float(figure) * 1e6)
            for line in master.run("CLUSTER", "INFO").splitlines():
                name, _, figure = line.partition(":")
                if name == "cluster_stats_messages_publish_sent":
                    counts["copies_on_the_bus"] += int(figure)
        return counts

    def redis_memory(self) -> int:
        """Bytes that the masters use."""
        found = 0
        for master in self._cluster.masters:
            for line in master.run("INFO", "memory").splitlines():
                name, _, figure = line.partition(":")
                found += int(figure) if name == "used_memory" else 0
        return found

    def postgres(self) -> Counter[str]:
        """Transactions, bytes of the write-ahead log, and bytes of each table with its indexes."""
        self._sql("select pg_stat_force_next_flush()")
        counts = Counter(
            transactions=self._number(
                "select xact_commit from pg_stat_database where datname = current_database()"
            ),
            wal_bytes=self._number("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"),
        )
        for table in TABLES:
            counts[f"{table}_bytes"] = self._number(f"select pg_total_relation_size('{table}')")
        return counts

    def _sql(self, statement: str) -> Any:
        return self._server.sql(self._database, statement)

    def _number(self, statement: str) -> int:
        return int(self._sql(statement)[0][0])


def per_unit(before: Counter[str], after: Counter[str], units: int) -> dict[str, float]:
    """What each of ``units`` has added, without what is idle."""
    grown = {name: round((after[name] - before[name]) / units, 2) for name in after}
    return {name: each for name, each in sorted(grown.items()) if each >= 0.01}


async def measured(world: World, count: int) -> Figures:
    """Registrations, calls, and calls that wait."""
    parts, calls = SharedParts(), Calls(world)
    config = (world.folder / "daemon0.ini").read_text()
    parts.use(next(line for line in config.splitlines() if line.startswith("url = postgresql")))
    figures: Figures = {"calls": count, "daemons": len(world.daemons)}

    async def of(units: int, work: Any) -> Figures:
        before = parts.redis(), parts.postgres()
        await work
        await asyncio.sleep(3)  # what is written later has been written
        after = parts.redis(), parts.postgres()
        redis, postgres = (per_unit(b, a, units) for b, a in zip(before, after, strict=True))
        return {"redis": redis, "postgresql": postgres}

    async def ring(number: int) -> None:
        _, ringing = await calls.place(number % ACCOUNTS)
        await ringing

    figures["first registration"] = await of(ACCOUNTS, calls.register(ACCOUNTS, 10))
    figures["registration"] = await of(ACCOUNTS, calls.register(ACCOUNTS, 10))
    figures["call"] = await of(count, each(range(count), 32, ring))
    calls.close()
    return figures


async def held(world: World) -> int:
    """Bytes that a waiting call takes in Redis."""
    parts, calls = SharedParts(), Calls(world)
    await calls.register(HELD, 10)
    before = parts.redis_memory()
    waiting = []

    async def place(number: int) -> None:
        waiting.append((await calls.place(number))[1])

    await paced(range(HELD), 100, place)
    await calls.settled(HELD)
    grown = parts.redis_memory() - before
    for task in waiting:
        task.cancel()
    calls.close()
    return round(grown / HELD)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--daemons", type=int, default=2)
    parser.add_argument("--platform", choices=["android", "apns"], default="apns")
    options = parser.parse_args()
    shared = {"cluster": True, "platform": options.platform, "https": True}
    answering = Setup(daemons=options.daemons, answer_ms=0, **shared)
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), answering) as world:
        figures = asyncio.run(measured(world, options.calls))
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), Setup(**shared)) as world:
        figures["redis_bytes_of_a_held_call"] = asyncio.run(held(world))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
