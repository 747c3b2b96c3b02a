"""
Whole calls through real daemons; prints one JSON object.

    python bench/calls.py latency [--parked 5000]   # from a phone's answer to the PBX's ACK
    python bench/calls.py capacity --calls 10000    # so many calls waiting at once
    python bench/calls.py throughput                # closed loop: call, push, answer, ACK
    python bench/calls.py register                  # accounts API asked, then committed
    python bench/calls.py ready                     # from the start to "ready"

This process is the PBX, and in ``latency`` and ``capacity`` the phones too: a call_id that
is a UUID is the call's key, so they can answer without having seen the push.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from generator import Answer, percentile, steady
from load import ACK, Calls, each, paced
from world import CHECKOUT, Meter, Setup, World

Figures: TypeAlias = dict[str, Any]


def times(took_ms: list[float]) -> Figures:
    """How long it took from answers to ACKs."""
    return {
        "p50_ms": round(percentile(took_ms, 0.5), 2),
        "p99_ms": round(percentile(took_ms, 0.99), 2),
        "max_ms": round(max(took_ms), 2),
    }


async def latency(calls: Calls, count: int, parked: int, phone_ms: float) -> Figures:
    """``count`` calls, one after the other, beside ``parked`` ones that wait throughout."""
    await calls.register(parked + 1)
    waiting: list[asyncio.Task[Answer]] = []

    async def park(number: int) -> None:
        waiting.append((await calls.place(number))[1])

    await paced(range(1, parked + 1), 400, park)
    await calls.settled(parked)
    for _ in range(10):
        await calls.ring(0, phone_ms / 1000)
    steady()
    with Meter(calls.world) as meter:
        took = [await calls.ring(0, phone_ms / 1000) for _ in range(count)]
    held = sum(not task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    return {"calls": count, "parked": parked, "still_held": held, **times(took), **meter.shares()}


async def capacity(calls: Calls, count: int, per_second: float) -> Figures:
    """``count`` calls wait at once; then all their phones answer, at a steady rate."""
    await calls.register(count)
    await asyncio.gather(*[calls.ring(number, 0.5) for number in range(50)])
    placed: list[tuple[str, asyncio.Task[Answer]]] = []
    (daemon, *_) = calls.world.daemons
    before = daemon.rss_kib

    async def place(number: int) -> None:
        placed.append(await calls.place(number))

    with Meter(calls.world) as placing:
        await paced(range(count), per_second, place)
        await calls.settled(count)
    full, asked = daemon.rss_kib, []

    async def answer(number: int) -> None:
        asked.append((number, (await calls.answer(placed[number][0])).sent_at))

    steady()
    with Meter(calls.world) as answering:
        await paced(range(count), per_second, answer)
        acks = [await ringing for _, ringing in placed]
    took = [(acks[number].received_at - sent_at) * 1000 for number, sent_at in asked]
    acknowledged = sum(ack.body == ACK for ack in acks)
    return {
        "waiting": count,
        "acknowledged": round(acknowledged / count, 5),
        "kib_each": round((full - before) / count / len(calls.world.daemons), 1),
        **times(took),
        "cpu_s": round(placing.daemon_cpu_s + answering.daemon_cpu_s, 2),
        **answering.shares(),
    }


async def throughput(calls: Calls, count: int, at_once: int, *, keep: bool) -> Figures:
    """``count`` calls, ``at_once`` at a time, whose phones answer as soon as they are woken."""
    accounts = 1000
    await calls.register(accounts)
    refused: list[Answer] = []

    async def ring(number: int) -> None:
        _, ringing = await calls.place(number % accounts, keep=keep)
        ack = await ringing
        if ack.body != ACK:
            refused.append(ack)

    await each(range(accounts), at_once, ring)
    refused.clear()
    steady()
    with Meter(calls.world) as meter:
        await each(range(count), at_once, ring)
    acknowledged = count - len(refused)
    return {
        "calls": count,
        "at_once": at_once,
        "connections": "kept" if keep else "new",
        "not_acknowledged": len(refused),
        "calls_per_s": round(acknowledged / meter.wall_s),
        "calls_per_cpu_s": round(acknowledged / meter.daemon_cpu_s),
        "cpu_s_per_1000": round(meter.daemon_cpu_s / max(acknowledged, 1) * 1000, 3),
        "cpu_s": round(meter.daemon_cpu_s, 2),
        **meter.shares(),
    }


async def register(calls: Calls, count: int, at_once: int) -> Figures:
    """``count`` registrations, ``at_once`` at a time."""
    await calls.register(200, at_once)
    steady()
    with Meter(calls.world) as meter:
        await each(range(count), at_once, calls.register_one)
    return {
        "registrations": count,
        "at_once": at_once,
        "per_s": round(count / meter.wall_s),
        "per_cpu_s": round(count / meter.daemon_cpu_s),
        **meter.shares(),
    }


def ready(setup: Setup, starts: int) -> Figures:
    """Several starts, each on an empty database."""
    walls, cpus = [], []
    for _ in range(starts):
        with tempfile.TemporaryDirectory() as folder, World(Path(folder), setup) as world:
            walls.append(world.start_s)
            cpus.append(world.start_cpu_s)
    return {
        "starts": starts,
        "ready_s": round(statistics.median(walls), 2),
        "ready_cpu_s": round(statistics.median(cpus), 2),
    }


def run(setup: Setup, mode: Callable[[Calls], Awaitable[Figures]]) -> Figures:
    """One measurement in its own world."""

    async def measured(world: World) -> Figures:
        calls = Calls(world)
        try:
            return await mode(calls)
        finally:
            calls.close()

    with tempfile.TemporaryDirectory() as folder, World(Path(folder), setup) as world:
        return asyncio.run(measured(world))


def measure(options: argparse.Namespace) -> Figures:
    """What the command line asks for."""
    answering = options.mode == "throughput"
    setup = Setup(
        cluster=options.cluster,
        platform=options.platform,
        daemons=options.daemons,
        https=options.https,
        share=options.share,
        answer_ms=0 if answering else None,
        own_names=options.own_names,
        accounts="voipgrid" if options.mode == "register" else "open",
        profile=options.profile and options.profile.absolute(),
        checkout=options.checkout.absolute(),
        attach=options.attach,
        under=options.under,
        database=options.database,
        sections=(lambda _: "[history]\ndays = 0\n") if options.no_history else None,
    )
    count = options.calls
    match options.mode:
        case "latency":
            return run(setup, lambda c: latency(c, count or 200, options.parked, options.phone_ms))
        case "capacity":
            return run(setup, lambda c: capacity(c, count or 2000, options.rate))
        case "throughput":
            keep = not options.new_connections
            return run(setup, lambda c: throughput(c, count or 5000, options.at_once, keep=keep))
        case "register":
            return run(setup, lambda c: register(c, count or 3000, options.at_once))
        case _:
            return ready(setup, count or 5)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("mode", choices=["latency", "capacity", "throughput", "register", "ready"])
    add("--calls", type=int, help="how many; each mode has its default")
    add("--cluster", action="store_true", help="PostgreSQL and Redis Cluster")
    add("--daemons", type=int, default=1)
    add("--own-names", action="store_true", help="phones answer at the daemon that pushed")
    add("--https", action="store_true", help="Google and the account API speak https")
    add("--share", type=float, help="of one core, which each daemon may use at most; needs root")
    add("--platform", choices=["android", "apns"], default="android")
    add("--parked", type=int, default=0, help="latency: calls that wait beside the measured ones")
    add("--phone-ms", type=float, default=50.0, help="latency: how long a phone takes")
    add("--rate", type=float, default=400.0, help="capacity: calls and answers per second")
    add("--at-once", type=int, default=32, help="throughput, register: how many at a time")
    add("--new-connections", action="store_true", help="throughput: one for each call")
    add("--no-history", action="store_true", help="daemons keep none")
    add("--database", type=Path, help="a SQLite file; the daemon begins with a copy of it")
    add("--profile", type=Path, help="leave cProfile's statistics of the daemon in this file")
    add("--checkout", type=Path, default=CHECKOUT, help="whose daemons are measured")
    add("--attach", default="", help="a command to run meanwhile; it gets the daemon's PID")
    add("--under", default="", help="a command under which the daemon runs, such as valgrind")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse_arguments()
    print(json.dumps({"mode": options.mode, **measure(options)}))
