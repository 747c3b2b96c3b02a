"""
All measurements of whole calls, one after the other.

    python bench/all.py [--quick] [--setup embedded|cluster|both]

Writes results.json, two curves (calls.svg, waiting.svg) and the table in README.md, all in
this folder; --quick writes nothing and takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from calls import Figures, capacity, latency, ready, register, run, throughput
from curve import Series, chart
from load import Calls
from world import Setup

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
TABLE = re.compile(r"(<!-- calls -->\n).*(<!-- /calls -->)", re.DOTALL)
CURVES = """
CPU seconds must grow linearly with calls, memory and CPU seconds with waiting calls:

![CPU seconds over calls](calls.svg)
![memory and CPU seconds over waiting calls](waiting.svg)
"""
PLATFORMS = {"android": "FCM v1", "apns": "APNs"}
# Of a core for each daemon, when two are compared with one: load and servers need the rest.
SHARE = 0.35
Mode = Callable[[Calls], Awaitable[Figures]]


class Sizes:
    """How much is measured."""

    def __init__(self, *, quick: bool) -> None:
        self.calls = [500, 1000] if quick else [1000, 2000, 4000, 8000]
        self.waiting = [500, 1000] if quick else [1000, 2000, 5000, 7500, 10_000]
        self.parked = 500 if quick else 5000
        self.latencies = 100 if quick else 500
        self.registrations = 1000 if quick else 5000
        self.starts = 3 if quick else 7
        self.turns = 1 if quick else 3


def embedded(sizes: Sizes) -> Iterator[tuple[str, Figures]]:
    """The default set-up: one process, SQLite, in-process rendezvous."""
    silent = Setup()
    yield "start", ready(silent, sizes.starts)
    yield "latency", run(silent, lambda calls: latency(calls, sizes.latencies, 0, 50))
    yield "latency, parked", run(silent, beside(sizes))
    for count in sizes.waiting:
        yield f"waiting {count}", run(silent, at_once(count))
    for name in PLATFORMS:
        for count in sizes.calls:
            setup = Setup(platform=name, https=True, answer_ms=0)
            yield f"{name} {count}", run(setup, closed_loop(count))
    yield "plain HTTP", run(Setup(answer_ms=0), closed_loop(sizes.calls[-2]))
    new = closed_loop(sizes.calls[-2], keep=False)
    yield "new connections", run(Setup(https=True, answer_ms=0), new)
    voipgrid = Setup(accounts="voipgrid")
    yield "register", run(voipgrid, lambda calls: register(calls, sizes.registrations, 32))


def cluster(sizes: Sizes) -> Iterator[tuple[str, Figures]]:
    """PostgreSQL and Redis Cluster, on this machine too."""
    silent = Setup(cluster=True)
    yield "start", ready(silent, sizes.starts)
    yield "latency", run(silent, lambda calls: latency(calls, sizes.latencies, 0, 50))
    yield "latency, parked", run(silent, beside(sizes))
    yield f"waiting {sizes.parked}", run(silent, at_once(sizes.parked))
    for name in PLATFORMS:
        setup = Setup(cluster=True, platform=name, https=True, answer_ms=0)
        yield f"{name} {sizes.calls[-2]}", run(setup, closed_loop(sizes.calls[-2]))
    voipgrid = Setup(cluster=True, accounts="voipgrid")
    yield "register", run(voipgrid, lambda calls: register(calls, sizes.registrations, 32))
    # In turn, since a machine's speed may drift.
    for turn in range(sizes.turns):
        for daemons in (1, 2):
            setup = Setup(cluster=True, daemons=daemons, https=True, share=SHARE, answer_ms=0)
            loop = closed_loop(sizes.calls[-2], at_once=32 * daemons)
            yield f"shares {daemons} {turn}", run(setup, loop)


def beside(sizes: Sizes) -> Mode:
    """Single calls beside many that wait."""
    return lambda calls: latency(calls, sizes.latencies, sizes.parked, 50)


def at_once(count: int) -> Mode:
    """Many waiting at once."""
    return lambda calls: capacity(calls, count, 400)


def closed_loop(count: int, *, at_once: int = 32, keep: bool = True) -> Mode:
    """As many calls as the daemons take."""
    return lambda calls: throughput(calls, count, at_once, keep=keep)


def measured(name: str, measurements: Iterator[tuple[str, Figures]]) -> dict[str, Figures]:
    """Run them all, and print each result at once."""
    results = {}
    for title, figures in measurements:
        figures["load_average"] = round(os.getloadavg()[0], 1)
        figures["loop_ms"] = loop_ms()
        results[title] = figures
        print(f"{name}, {title}: {json.dumps(figures)}", flush=True)
    return results


def loop_ms() -> float:
    """How long a fixed loop takes now: a shared machine's speed drifts."""
    began, total = time.perf_counter(), 0
    for number in range(1_000_000):
        total += number
    return round((time.perf_counter() - began) * 1000, 1)


def machine() -> str:
    """What it was measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    return (
        f"{os.cpu_count()} x {model[1] if model else platform.machine()},"
        f" Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )


def rows(results: dict[str, Figures]) -> Iterator[tuple[str, Any, str]]:
    """What is asked for of a set-up, what was measured, and the goal of the embedded one."""

    def took(name: str) -> str:
        figures = results[name]
        return f"{figures['p50_ms']} ms / {figures['p99_ms']} ms"

    def rate(name: str) -> str:
        figures = results[name]
        return (
            f"{figures['calls_per_s']} ({figures['cpu_s_per_1000']} CPU s per 1,000;"
            f" daemon {figures['daemon_cpu']:.0%} of a core)"
        )

    parked = results["latency, parked"]["parked"]
    yield "start to ready", f"{results['start']['ready_s']} s", "1.0 s"
    yield "answer to ACK, idle, p50 / p99", took("latency"), "1.5 ms / 5 ms"
    yield f"the same with {parked:,} parked calls", took("latency, parked"), "3 ms / 20 ms"
    waiting = [figures for name, figures in results.items() if name.startswith("waiting")][-1]
    share, each = waiting["acknowledged"], waiting["kib_each"]
    yield (
        f"{waiting['waiting']:,} calls waiting at once",
        f"{share:.2%} ACKed, {each} KiB each, p99 {waiting['p99_ms']} ms",
        "10,000: 99.9 %, 12 KiB each",
    )
    for platform_name, title in PLATFORMS.items():
        goal = {"android": "700 (1.2 CPU s)", "apns": "900"}[platform_name]
        names = [name for name in results if name.startswith(platform_name)]
        yield f"calls/s, {title}", rate(names[-1]), goal
    if "plain HTTP" in results:
        yield "calls/s, FCM v1, a relay over plain HTTP", rate("plain HTTP"), ""
        yield "calls/s, FCM v1, a new connection each", rate("new connections"), ""
    yield "registrations/s", results["register"]["per_s"], "600"
    if "shares 1 0" in results:
        one, two = (
            statistics.median(
                figures["calls_per_s"]
                for name, figures in results.items()
                if name.startswith(f"shares {daemons} ")
            )
            for daemons in (1, 2)
        )
        yield (
            f"two daemons, {SHARE:.0%} of a core each, against one",
            f"{two:g} against {one:g} calls/s: {two / one:.2f} times",
            "1.9 times",
        )


def table(results: dict[str, dict[str, Figures]]) -> str:
    """The README's part."""
    lines = [f"Measured on {machine()}."]
    for setup in ("embedded", "cluster"):
        if setup not in results:
            continue
        figures = results[setup]
        share = max(each.get("generator_cpu", 0.0) for each in figures.values())
        loads = [each["load_average"] for each in figures.values()]
        loops = [each["loop_ms"] for each in figures.values()]
        lines += [
            "",
            f"**{setup}** (the generator used at most {share:.0%} of a core; the machine's load"
            f" average was {min(loads)} to {max(loads)}; one fixed loop of Python took"
            f" {min(loops)} to {max(loops)} ms)",
            "",
            "| | measured | goal |" if setup == "embedded" else "| | measured | embedded goal |",
            "|---|---|---|",
            *(f"| {name} | {value} | {goal} |" for name, value, goal in rows(figures)),
        ]
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Figures]) -> None:
    """The cost of calls and of waiting calls, over their number."""
    lines = [
        Series(
            title,
            [
                (figures["calls"], figures["cpu_s"])
                for name, figures in results.items()
                if re.fullmatch(rf"{platform_name} \d+", name)
            ],
        )
        for platform_name, title in PLATFORMS.items()
    ]
    (HERE / "calls.svg").write_text(chart("calls", "CPU seconds of the daemon", lines))
    waiting = [figures for name, figures in results.items() if name.startswith("waiting")]
    (HERE / "waiting.svg").write_text(
        chart(
            "calls waiting at once",
            "daemon: MB of memory, CPU seconds",
            [
                Series(
                    "MB", [(w["waiting"], w["waiting"] * w["kib_each"] / 1024) for w in waiting]
                ),
                Series("CPU s", [(w["waiting"], w["cpu_s"]) for w in waiting]),
            ],
        )
    )


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--setup", choices=["embedded", "cluster", "both"], default="both")
    options = parser.parse_args()
    sizes = Sizes(quick=options.quick)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() and not options.quick else {}
    for name, measure in {"embedded": embedded, "cluster": cluster}.items():
        if options.setup in (name, "both"):
            results[name] = measured(name, measure(sizes))
    print("\n" + table(results))
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        draw(results["embedded"])
        text = table(results) + CURVES
        README.write_text(TABLE.sub(lambda found: found[1] + text + found[2], README.read_text()))


if __name__ == "__main__":
    main()
