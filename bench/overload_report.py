"""The results of bench/overload.py: a table, a curve, and whether the goals hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from all import machine
from curve import Series, chart

Figures: TypeAlias = dict[str, Any]
HERE = Path(__file__).parent
RESULTS, README = HERE / "overload.json", HERE / "README.md"
TABLE = re.compile(r"(<!-- overload -->\n).*(<!-- /overload -->)", re.DOTALL)
# The part of the capacity that is left, and ms for 99 of 100 refusals.
GOALS = {
    "1.5 times": (0.85, 250),
    "3 times": (0.85, 250),
    "10 times": (0.5, 1000),
    "3 times, new connections": (0.65, 1000),  # the accept queue is part of it
    "one killed": (0.85, 250),
}


def loads(figures: Figures) -> Iterator[tuple[str, Figures]]:
    """Each overload and its figures."""
    return (
        (name, each) for name, each in figures.items() if isinstance(each, dict) and name in GOALS
    )


def failures(figures: Figures) -> list[str]:
    """The goals that do not hold."""
    missed = []
    for name, each in loads(figures):
        goodput, refused_ms = GOALS[name]
        if each["goodput_of_capacity"] < goodput:
            missed.append(f"{name}: goodput {each['goodput_of_capacity']:.0%}")
        if (each["refused_p99_ms"] or 0) > refused_ms:
            missed.append(f"{name}: refusals take {each['refused_p99_ms']} ms")
        if each["without_answer"]:
            missed.append(f"{name}: {each['without_answer']} calls without an answer")
        if each["after_failed_from_2nd_second"]:
            missed.append(f"{name}: {each['after_failed_from_2nd_second']} failed afterwards")
    return missed


def holds(figures: Figures) -> bool:
    """Whether the goals are met."""
    return not failures(figures)


def table(figures: Figures) -> str:
    """The figures as a table of Markdown."""
    title = f"{figures['setup']}, {figures['platform']}"
    times = max(len(each.get("runs", [0])) for _, each in loads(figures))
    lines = [
        f"**{title}**: {figures['daemons']} x {figures['share']:.0%} of a core"
        f" ({figures['held_by']}), capacity {figures['capacity']} calls/s"
        + (f"; medians of {times} runs, goodput of each in brackets" if times > 1 else ""),
        "",
        "| offered | goodput | of capacity (goal) | refused, p50 / p99 (goal) | without answer"
        " | failed in each second after | daemons / simulator / generator, of a core |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in loads(figures):
        goodput, refused_ms = GOALS[name]
        took = f"{each['refused_p50_ms']} / {each['refused_p99_ms']} ms ({refused_ms})"
        refused = f"{each['refused']}: {took}" if each["refused"] else "none"
        runs = ", ".join(f"{run['goodput_of_capacity']:.0%}" for run in each.get("runs", ()))
        seconds = " ".join(map(str, each["after_failed_by_second"]))
        lines.append(
            f"| {name}: {each['offered']}/s | {each['goodput']}/s"
            f" | {each['goodput_of_capacity']:.0%} ({goodput:.0%})"
            f"{f' [{runs}]' if runs else ''} | {refused}"
            f" | {each['without_answer']} | {seconds}"
            f" | {each['daemon_cpu']} / {each['simulator_cpu']} / {each['generator_cpu']} |"
        )
    load = [each["load_average"] for _, each in loads(figures)]
    loop = [each["loop_ms"] for _, each in loads(figures)]
    if load:
        lines += [
            "",
            f"Load average {min(load)} to {max(load)}, a fixed loop of Python {min(loop)} to"
            f" {max(loop)} ms.",
        ]
    missed = failures(figures)
    lines += ["", "Missed: " + "; ".join(missed) + "." if missed else "All goals hold."]
    return "\n".join(lines) + "\n"


def curve(figures: Figures) -> str:
    """Goodput over offered load, both in percent of the capacity."""
    capacity = figures["capacity"]
    kept = [(0.0, 0.0), (100.0, 100.0)]
    new = [(0.0, 0.0)]
    for name, each in loads(figures):
        point = (each["offered"] / capacity * 100, each["goodput_of_capacity"] * 100)
        if name.endswith("new connections"):
            new.append(point)
        elif name.endswith("times"):
            kept.append(point)
    lines = [Series("kept", sorted(kept))]
    if len(new) > 1:
        lines.append(Series("new", new))
    return chart("offered calls, % of capacity", "answered calls, % of capacity", lines)


def write(figures: Figures) -> None:
    """Keep the figures beside those of the other set-up; the README's table."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[figures["setup"]] = figures
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    parts = [f"Measured on {machine()}.\n"]
    for setup, each in known.items():
        parts += [table(each), f"![goodput over offered load](overload-{setup}.svg)\n"]
    text = "\n".join(parts)
    README.write_text(TABLE.sub(lambda found: found[1] + text + found[2], README.read_text()))
