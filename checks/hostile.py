"""
Real calls at real daemons while clients, peers or the machine behave badly.

    python checks/hostile.py keys [--setup cluster]   # 2,000 made-up keys a second
    python checks/hostile.py hangups                  # 3,000 PBX connections closed at once
    python checks/hostile.py log                      # standard output not read for 30 s
    python checks/hostile.py clock [--setup cluster]  # the wall clock steps; needs libfaketime
    python checks/hostile.py pause                    # the process stands still for 4.5 s
    python checks/hostile.py partition                # one of three daemons without Redis
    python checks/hostile.py all                      # all of them, each in both set-ups

Prints one JSON object for each; the exit code is 0 when all goals hold (``"missed": []``).
libfaketime is Debian's package of that name; ``--libfaketime`` is the library's path.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from flood import Flood
from generator import Client, form_request, percentile
from load import ANSWER, Calls
from offered import Pbx, Placed
from overload import surroundings
from partition import Partition
from stepping import PHONE_S, SILENT, Clock, Scene
from world import Setup, World

Figures: TypeAlias = dict[str, Any]
WAIT_S = 4.0
ACCOUNTS = 200


def setup(options: argparse.Namespace, **settings: Any) -> Setup:
    """A world of the wanted set-up, with waits as users have them."""
    cluster = options.setup == "cluster"
    common = {"platform": "apns", "wait_ms": int(WAIT_S * 1000), "resend_ms": 1000}
    return Setup(**{"cluster": cluster, "daemons": 3 if cluster else 1, **common, **settings})


def run(
    chosen: Setup, work: Callable[[World, Calls], Awaitable[Figures]], accounts: int
) -> Figures:
    """One world from its start to its end, with registered accounts."""

    async def measured(world: World) -> Figures:
        calls = Calls(world)
        try:
            await calls.register(accounts)
            return await work(world, calls)
        finally:
            calls.close()

    with tempfile.TemporaryDirectory() as folder, World(Path(folder), chosen) as world:
        return {**asyncio.run(measured(world)), **surroundings()}


def keys(options: argparse.Namespace) -> Figures:
    """Real calls beside a flood of answers with keys that no call has."""

    async def work(world: World, calls: Calls) -> Figures:
        flooded = world.addresses[0]
        phones = Client([flooded])
        took: list[float] = []
        counts: Counter[str] = Counter()

        async def ring(number: int) -> None:
            key, ringing = await calls.place(number % ACCOUNTS)
            await asyncio.sleep(0.3)
            answer = await phones.ask(answer_request(key))
            ack = await ringing
            counts["ACK" if ack.body == b"status=ACK" else f"phone {answer.status}"] += 1
            if ack.body == b"status=ACK":
                took.append((ack.received_at - answer.sent_at) * 1000)

        await at_a_rate(options.calls_per_s, 3.0, ring)
        idle, took[:] = list(took), []
        counts.clear()
        flood = Flood(flooded, per_second=options.keys_per_s, sources=options.sources)
        before = world.daemons[0].cpu_s
        flooding = asyncio.create_task(flood.run(options.seconds))
        began = time.perf_counter()
        await at_a_rate(options.calls_per_s, options.seconds, ring)
        cpu = (world.daemons[0].cpu_s - before) / (time.perf_counter() - began)
        await flooding
        phones.close()
        p99 = percentile(took, 0.99)
        return {
            "idle_ms": spread(idle),
            "answer_to_ack_ms": spread(took),
            "calls": dict(counts),
            "made_up_keys": {"sent": flood.sent, "per_s": round(flood.sent / options.seconds)},
            "made_up_key_statuses": dict(flood.statuses),
            "flooded_daemon_cpu": round(cpu, 2),
            "missed": missed(
                (not p99 < 50, f"p99 {p99:.0f} ms"),
                (set(counts) != {"ACK"}, "calls were lost"),
            ),
        }

    return run(setup(options), work, ACCOUNTS)


def hangups(options: argparse.Namespace) -> Figures:
    """All PBX connections end in one go while their calls wait."""
    from tests.servers import redis

    count = options.hangups

    def records() -> int:
        masters = redis.shared_cluster().masters
        return sum(len(each.run("KEYS", "middlewared:*:call:*")) for each in masters)

    async def work(world: World, _: Calls) -> Figures:
        pbx = Pbx(world.addresses, accounts=count, wait_s=120)
        await pbx.connect(count // len(world.addresses))
        placed = await pbx.offer(300.0, count / 300)
        await asyncio.sleep(2.0)
        waiting = sum(not call.outcome for call in placed)
        lost_before = links_lost(world)
        before = await asyncio.to_thread(records)
        closed = pbx.hang_up()
        left = {}
        for at_s in (1.0, 2.0, 5.0):
            await asyncio.sleep(at_s - max((0.0, *left)))
            left[at_s] = await asyncio.to_thread(records)
        pbx.close()
        lost = links_lost(world) - lost_before
        return {
            "waiting": waiting,
            "closed": closed,
            "records_before": before,
            "records_left_after_s": {f"{at_s:g}": number for at_s, number in left.items()},
            "redis_links_lost": lost,
            "missed": missed(
                (lost > 0, f"{lost} links to Redis lost"), (left[1.0] > 0, f"{left[1.0]} records")
            ),
        }

    chosen = setup(options, cluster=True, daemons=2, wait_ms=120_000, resend_ms=5000)
    return run(chosen, work, count)


def links_lost(world: World) -> int:
    """How often the daemons lost a connection to Redis, as their logs have it."""
    return sum(daemon.output.count(": connection lost") for daemon in world.daemons)


def log(options: argparse.Namespace) -> Figures:
    """The reader of the daemon's standard output stops reading."""

    async def work(world: World, _: Calls) -> Figures:
        (daemon, *_) = world.daemons
        pbx = Pbx(world.addresses, accounts=ACCOUNTS, wait_s=WAIT_S)
        before = await pbx.offer(options.log_calls_per_s, 3.0)
        daemon.reading.clear()
        during = await pbx.offer(options.log_calls_per_s, options.unread_s)
        await pbx.ended(before + during)
        daemon.reading.set()
        after = await pbx.offer(options.log_calls_per_s, 3.0)
        await pbx.ended(after)
        pbx.close()
        return {
            "before": outcomes(before),
            "unread": outcomes(during),
            "read_again": outcomes(after),
            "missed": missed((outcomes(during) != {"ACK": len(during)}, "calls were lost")),
        }

    return run(setup(options, piped=True, answer_ms=300), work, ACCOUNTS)


def pause(options: argparse.Namespace) -> Figures:
    """The process stands still past the ends of its calls, whose phones answer meanwhile."""

    async def work(world: World, calls: Calls) -> Figures:
        counts: Counter[str] = Counter()

        async def ring(number: int) -> None:
            key, ringing = await calls.place(number)
            await asyncio.sleep(1.0 + number / 20)  # to 3 s: in time, though the daemon stands
            answer = await calls.phones.ask(answer_request(key))
            ack = await ringing
            outcome = "ACK" if ack.body == b"status=ACK" else "NAK"
            counts[f"phone {answer.status}, PBX {outcome}"] += 1

        ringing = asyncio.gather(*[ring(number) for number in range(40)])
        await asyncio.sleep(0.6)
        for daemon in world.daemons:
            os.kill(daemon.pid, signal.SIGSTOP)
        await asyncio.sleep(4.5)
        for daemon in world.daemons:
            os.kill(daemon.pid, signal.SIGCONT)
        await ringing
        wrong = counts["phone 202, PBX NAK"]
        # The answers came within the wait, so 404 (and 503 embedded) would be wrong, too.
        return {
            "calls": dict(counts),
            "missed": missed(
                (wrong > 0, f"{wrong} phones got 202 and their PBX a NAK"),
                (counts["phone 202, PBX ACK"] < 40, "answers that came in time did not count"),
            ),
        }

    return run(setup(options), work, ACCOUNTS)


def clock(options: argparse.Namespace) -> Figures:
    """The wall clock of all daemons steps back and forth under load."""
    with tempfile.TemporaryDirectory() as folder:
        faked = Clock(Path(folder) / "clock", options.libfaketime)

        async def work(world: World, calls: Calls) -> Figures:
            return await Scene(world, calls, faked, wait_s=WAIT_S).play()

        phones = {"answer_ms": PHONE_S * 1000, "silent": SILENT}
        return run(setup(options, environment=faked.environment, **phones), work, ACCOUNTS)


def partition(options: argparse.Namespace) -> Figures:
    """One of three daemons reaches Redis no more, for a while."""
    from tests.servers import postgres, redis

    database = postgres.shared_server()
    url, proxy = database.url(database.create_database()), Partition(redis.shared_server().node)
    proxy.start()

    def sections(number: int) -> str:
        host, port = proxy.address if number == 2 else redis.shared_server().node
        return f"[database]\nurl = {url}\n[redis]\nnodes = {host}:{port}\n"

    async def work(world: World, _: Calls) -> Figures:
        pbx = Pbx(world.addresses, accounts=ACCOUNTS, wait_s=WAIT_S, repeats=2)
        before = await pbx.offer(40.0, 4.0)
        proxy.cut = True
        during = await pbx.offer(40.0, options.partition_s)
        proxy.cut = False
        after = await pbx.offer(40.0, 6.0)
        await pbx.ended(before + during + after)
        pbx.close()
        # Those under way at the cut may be lost: they were held, or on their way.
        cut_at = during[0].placed_at
        held = [call for call in before if call.placed_at > cut_at - 0.5 and call.outcome != "ACK"]
        lost = [call for call in during + after if call.outcome != "ACK"]
        return {
            "before": outcomes(before),
            "held_at_the_cut_and_lost": len(held),
            "cut_off": outcomes(during),
            "joined_again": outcomes(after),
            "lost_by_second": by_second(lost, cut_at),
            "missed": missed((bool(lost), f"{len(lost)} calls lost")),
        }

    chosen = setup(options, cluster=False, daemons=3, sections=sections, answer_ms=300)
    return run(chosen, work, ACCOUNTS)


def answer_request(key: str) -> bytes:
    """What a phone sends."""
    fields = {"unique_key": key, "message_start_time": f"{time.time():.7f}"}
    return form_request(ANSWER, fields)


async def at_a_rate(
    per_second: float, seconds: float, ring: Callable[[int], Awaitable[None]]
) -> None:
    """``ring`` at a steady rate; ends when all calls have."""
    began, tasks = time.perf_counter(), []
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ring(number)))
    await asyncio.gather(*tasks)


def spread(took_ms: list[float]) -> Figures:
    """The middle and the end."""
    return {
        "p50": round(percentile(took_ms, 0.5), 1),
        "p99": round(percentile(took_ms, 0.99), 1),
        "max": round(max(took_ms, default=0.0), 1),
    }


def outcomes(calls: list[Placed]) -> dict[str, int]:
    """Their outcomes."""
    return dict(Counter(call.outcome for call in calls))


def by_second(calls: list[Placed], began: float) -> dict[int, int]:
    """How many were placed in each second since ``began``."""
    return dict(sorted(Counter(int(call.placed_at - began) for call in calls).items()))


def missed(*goals: tuple[bool, str]) -> list[str]:
    """The goals that do not hold."""
    return [text for wrong, text in goals if wrong]


SCENES = {
    "keys": keys,
    "hangups": hangups,
    "log": log,
    "clock": clock,
    "pause": pause,
    "partition": partition,
}
BOTH = ("keys", "clock")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("scene", choices=[*SCENES, "all"])
    add("--setup", choices=["embedded", "cluster"], default="embedded")
    add("--seconds", type=float, default=10.0, help="keys: how long the flood lasts")
    add("--keys-per-s", type=float, default=2000.0)
    add("--sources", type=int, default=100, help="keys: addresses (127.0.1.x) they come from")
    add("--calls-per-s", type=float, default=20.0, help="keys: real calls")
    add("--hangups", type=int, default=3000)
    add("--unread-s", type=float, default=30.0)
    add("--log-calls-per-s", type=float, default=60.0)
    add("--partition-s", type=float, default=20.0)
    add(
        "--libfaketime", type=Path, help="libfaketimeMT.so.1, if it is not where Debian installs it"
    )
    return parser.parse_args()


def main() -> None:
    """Play the scenes and print the results."""
    options, wrong = parse_arguments(), False
    for name in SCENES if options.scene == "all" else [options.scene]:
        both = options.scene == "all" and name in BOTH
        for where in ("embedded", "cluster") if both else (options.setup,):
            options.setup = where
            figures = SCENES[name](options)
            wrong = wrong or bool(figures["missed"])
            print(json.dumps({"scene": name, "setup": where, **figures}), flush=True)
        if both:
            options.setup = "embedded"
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
