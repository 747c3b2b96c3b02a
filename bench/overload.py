"""
More calls than the daemon can do: goodput over offered load, refusals, and what follows.

    python bench/overload.py [--quick] [--runs 3] [--setup embedded|cluster] [--write]

A real daemon (cluster: three, on PostgreSQL and Redis Cluster, in turn) is held to a share
of a core. Its capacity is determined: the highest rate, in an open loop, at which 99 % of
the calls are answered and no queue grows. Then come 1.5, 3 and 10 times that rate, and 3
times with a new connection for each call; after each at once 0.6 times. Cluster: at last
one of the three is killed at 0.9 times the capacity of all. ``--runs`` plays all loads that
often, in turn, and gives medians, with each run beside them: a virtual machine's speed may
halve for seconds. The exit code is 0 when the goals hold. ``--write`` writes overload.json,
overload-SETUP.svg and the table in README.md.

This process is the PBX, with kept connections as through a balancer; Apple (or Google) and
phones that answer after 300 ms are the simulator, a second process.
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
from pathlib import Path
from typing import Any, TypeAlias

import attrs
from all import loop_ms
from generator import percentile, steady
from load import Calls
from offered import Pbx, Placed
from overload_report import curve, holds, table, write
from share import CoreShare
from world import Meter, Setup, World

Figures: TypeAlias = dict[str, Any]
WAIT_S, PHONE_S = 4.0, 0.3
ACCOUNTS = 2000
ANSWERED = 0.99  # of all calls, at capacity
LATE_S = 0.25  # beyond the phone's time: there a queue grows
WARM_S = 1.0  # from the start of a load until its goodput counts
AFTER = 0.6
FACTORS = (1.5, 3.0, 10.0)


@attrs.frozen
class Plan:
    """How long everything takes."""

    step_s: float = 5.0
    bisections: int = 3
    overload_s: float = 20.0
    after_s: float = 10.0


QUICK = Plan(step_s=3.0, bisections=2, overload_s=6.0, after_s=4.0)


class Overload:
    """One world and its load."""

    def __init__(self, world: World, options: argparse.Namespace) -> None:
        self._world = world
        self._options = options
        self._plan: Plan = QUICK if options.quick else Plan()
        self._factors: list[float] = options.factors
        self._calls = Calls(world)
        self.capacity = 0.0
        self.steps: list[tuple[float, float]] = []

    def pbx(self, *, keep: bool = True, redispatch: bool = False) -> Pbx:
        """A PBX without connections yet."""
        return Pbx(
            self._world.addresses,
            accounts=ACCOUNTS,
            wait_s=WAIT_S,
            keep=keep,
            repeats=1 if self._options.repeat else 0,
            redispatch=redispatch,
        )

    async def run(self) -> Figures:
        """All measurements."""
        await self._calls.register(ACCOUNTS)
        shares = [CoreShare(daemon.pid, self._options.share) for daemon in self._world.daemons]
        self._world.held_by(shares)
        steady()
        self.capacity = self._options.rate or await self._find_capacity()
        figures: Figures = {
            "share": self._options.share,
            "held_by": shares[0].means,
            "daemons": len(shares),
            "capacity": round(self.capacity, 1),
            "steps": self.steps,
        }
        runs = [await self._loads() for _ in range(self._options.runs)]
        for name in runs[0]:
            figures[name] = medians([run[name] for run in runs])
        if self._options.cluster:
            figures["one killed"] = await self._killed()
        self._calls.close()
        return figures

    async def _loads(self) -> Figures:
        """Each load once, but for the kill, after which there is no other."""
        loads = {f"{factor:g} times": await self._overload(factor) for factor in self._factors}
        if not self._options.cluster:
            loads["3 times, new connections"] = await self._overload(3.0, keep=False)
        return loads

    async def _find_capacity(self) -> float:
        """Steps of 1.4 until both sides are known, then the geometric middle."""
        guess = 900 * self._options.share * len(self._world.daemons)
        rate = guess if self._options.platform == "apns" else guess * 0.7
        good = bad = 0.0
        while not good or not bad:
            if await self._holds(rate):
                good, rate = rate, rate * 1.4
            else:
                bad, rate = rate, rate / 1.4
        for _ in range(self._plan.bisections):
            rate = (good * bad) ** 0.5
            if await self._holds(rate):
                good = rate
            else:
                bad = rate
        while not await self._holds(good, 2 * self._plan.step_s):
            good *= 0.93
        return good

    async def _holds(self, rate: float, seconds: float | None = None) -> bool:
        """Whether the calls are answered at this rate."""
        pbx = self.pbx()
        await pbx.connect(int(rate * 0.6 / len(self._world.addresses)))
        calls = await pbx.offer(rate, seconds or self._plan.step_s)
        await pbx.ended(calls)
        pbx.close()
        answered = sum(call.outcome == "ACK" for call in calls) / len(calls)
        last = [call.took_s for call in calls if call.placed_at > calls[-1].placed_at - 1]
        late_s = percentile(last, 0.5) - PHONE_S
        self.steps.append((round(rate, 1), round(answered, 4)))
        note(f"{rate:7.1f} calls/s: {answered:.2%} answered, at last {late_s * 1000:.0f} ms late")
        await self._settle()
        return answered >= ANSWERED and late_s < LATE_S

    async def _overload(self, factor: float, *, keep: bool = True) -> Figures:
        """Too much for a while, then at once less than the capacity."""
        rate, pbx = factor * self.capacity, self.pbx(keep=keep)
        if keep:
            await pbx.connect(min(4000, int(rate * 0.6)) // len(self._world.addresses))
        with Meter(self._world) as meter:
            began = time.perf_counter()
            calls = await pbx.offer(rate, self._plan.overload_s)
            ended = time.perf_counter()
        after = await pbx.offer(AFTER * self.capacity, self._plan.after_s)
        await pbx.ended(calls + after)
        pbx.close()
        name = f"{factor:g} times" + ("" if keep else ", new connections")
        figures = self._figures(calls, began, ended, self.capacity)
        figures |= {**self._seconds(after), **meter.shares(), **surroundings()}
        figures["generator_late_ms"] = round(pbx.latest_s * 1000)
        figures["settled_s"] = await self._settle()
        note(f"{name}: {json.dumps(figures)}")
        return figures

    async def _killed(self) -> Figures:
        """One of the daemons is killed when all are nearly full; later it is there again."""
        rate, some_s = 0.9 * self.capacity, self._plan.overload_s / 4
        pbx = self.pbx(redispatch=True)
        await pbx.connect(int(rate * 0.6))
        with Meter(self._world) as meter:
            before = await pbx.offer(rate, some_s)
            os.kill(self._world.daemons[-1].pid, signal.SIGKILL)
            began = time.perf_counter()
            calls = await pbx.offer(rate, self._plan.overload_s)
            ended = time.perf_counter()
        after = await pbx.offer(AFTER * self.capacity * 2 / 3, self._plan.after_s)
        await pbx.ended(before + calls + after)
        pbx.close()
        left = self.capacity * (len(self._world.daemons) - 1) / len(self._world.daemons)
        figures = self._figures(calls, began, ended, left)
        figures |= {**self._seconds(after), **meter.shares(), **surroundings()}
        figures["redispatched"] = sum(call.tried > 1 for call in before + calls)
        figures["held_by_the_killed"] = dict(
            Counter(call.outcome for call in before if call.tried > 1)
        )
        note(f"one killed: {json.dumps(figures)}")
        return figures

    def _figures(self, calls: list[Placed], began: float, ended: float, capacity: float) -> Figures:
        """The figures of an overload's calls."""
        acked = [
            call
            for call in calls
            if call.outcome == "ACK"
            and call.took_s <= WAIT_S + LATE_S
            and began + WARM_S <= call.ended_at <= ended
        ]
        goodput = len(acked) / (ended - began - WARM_S)
        refused = [call.took_s * 1000 for call in calls if call.status == 503]
        outcomes = Counter(call.outcome for call in calls)
        return {
            "offered": round(len(calls) / (ended - began), 1),
            "goodput": round(goodput, 1),
            "goodput_of_capacity": round(goodput / capacity, 3),
            "refused": len(refused),
            "refused_p50_ms": round(percentile(refused, 0.5), 1) if refused else None,
            "refused_p99_ms": round(percentile(refused, 0.99), 1) if refused else None,
            "without_answer": sum(outcomes[name] for name in ("lost", "unanswered", "refused")),
            "outcomes": dict(outcomes),
        }

    def _seconds(self, after: list[Placed]) -> Figures:
        """How many calls failed in each second after the overload."""
        began = after[0].placed_at
        failed = Counter(int(call.placed_at - began) for call in after if call.outcome != "ACK")
        by_second = [failed[second] for second in range(int(self._plan.after_s))]
        return {
            "after_calls": len(after),
            "after_failed_by_second": by_second,
            "after_failed_from_2nd_second": sum(by_second[1:]),
        }

    async def _settle(self) -> float:
        """Until the daemons do nothing, 30 s at most; how long that took."""
        began = time.perf_counter()
        spent = sum(daemon.cpu_s for daemon in self._world.daemons)
        while time.perf_counter() - began < 30:
            await asyncio.sleep(0.3)
            before, spent = spent, sum(daemon.cpu_s for daemon in self._world.daemons)
            if spent - before <= 0.02 * len(self._world.daemons):
                break
        return round(time.perf_counter() - began, 1)


def medians(runs: list[Figures]) -> Figures:
    """The median of each figure, and the runs that it comes from."""
    if len(runs) == 1:
        return runs[0]
    return {**{name: _median([run[name] for run in runs]) for name in runs[0]}, "runs": runs}


def _median(values: list[Any]) -> Any:
    if isinstance(values[0], list):
        return [_median(list(each)) for each in zip(*values, strict=True)]
    if isinstance(values[0], dict):
        names = dict.fromkeys(name for each in values for name in each)
        return {name: _median([each.get(name, 0) for each in values]) for name in names}
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def surroundings() -> Figures:
    """How busy the machine is, and how fast."""
    return {"load_average": round(os.getloadavg()[0], 1), "loop_ms": loop_ms()}


def note(line: str) -> None:
    """Report at once."""
    print(line, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace) -> Figures:
    """One world, from its start to its end."""
    setup = Setup(
        cluster=options.cluster,
        platform=options.platform,
        daemons=3 if options.cluster else 1,
        answer_ms=PHONE_S * 1000,
        wait_ms=int(WAIT_S * 1000),
        resend_ms=1000,
    )

    async def overload(world: World) -> Figures:
        return await Overload(world, options).run()

    with tempfile.TemporaryDirectory() as folder, World(Path(folder), setup) as world:
        figures = asyncio.run(overload(world))
    answers = world.seen["answers"]
    return {"setup": options.setup, "platform": options.platform, **figures, "phones": answers}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="shorter loads, a rougher capacity: 90 s")
    add("--setup", choices=["embedded", "cluster"], default="embedded")
    add("--platform", choices=["apns", "android"], default="apns")
    add("--share", type=float, help="of one core for each daemon (0.25; cluster 0.12)")
    add("--rate", type=float, help="the capacity, if it is known")
    add("--factors", type=float, nargs="*", default=FACTORS, help="times the capacity")
    add("--runs", type=int, default=1, help="how often each load is played; medians are given")
    add("--repeat", action="store_true", help="a call refused with 503 tries the next daemon")
    add(
        "--write", action="store_true", help="overload.json, overload-SETUP.svg, the README's table"
    )
    options = parser.parse_args()
    options.cluster = options.setup == "cluster"
    options.share = options.share or (0.12 if options.cluster else 0.25)
    return options


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    figures = measure(options)
    print(table(figures))
    print(json.dumps(figures))
    folder = Path(__file__).parent if options.write else Path(tempfile.gettempdir())
    drawn = folder / f"overload-{options.setup}.svg"
    drawn.write_text(curve(figures))
    note(f"the curve is in {drawn}")
    if options.write:
        write(figures)
    sys.exit(0 if holds(figures) else 1)


if __name__ == "__main__":
    main()
