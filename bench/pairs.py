"""
Two measurements of whole calls in turn, and the ratios of their figures.

    python bench/pairs.py [--rounds 5] "throughput --https --checkout OLD" "throughput --https"

Each text is the arguments of bench/calls.py. The speed of a shared machine drifts: only what
ran in turn can be compared. Prints for every figure the median of each side, and of all
rounds the median and the range of the second side's figure divided by the first's.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

CALLS = Path(__file__).with_name("calls.py")
Figures = dict[str, Any]


def measure(arguments: str) -> Figures:
    """One run of bench/calls.py."""
    command = [sys.executable, str(CALLS), *shlex.split(arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def row(name: str, pairs: list[tuple[Figures, Figures]]) -> str:
    """One line of the table."""
    firsts, seconds = ([side[name] for side in sides] for sides in zip(*pairs, strict=True))
    ratios = [second / first for first, second in zip(firsts, seconds, strict=True) if first]
    if not ratios:
        return f"| {name} | {median(firsts):g} | {median(seconds):g} | | |"
    return (
        f"| {name} | {median(firsts):g} | {median(seconds):g} | {median(ratios):.2f}"
        f" | {min(ratios):.2f} to {max(ratios):.2f} |"
    )


def main() -> None:
    """Measure in turn, print each pair as JSON, then the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("first")
    parser.add_argument("second")
    options = parser.parse_args()
    pairs = []
    for turn in range(options.rounds):
        # Who begins alternates, so that a steady drift favours neither.
        order = ["first", "second"][:: -1 if turn % 2 else 1]
        figures = {side: measure(getattr(options, side)) for side in order}
        pairs.append((figures["first"], figures["second"]))
        print(json.dumps(figures), flush=True)
    first = pairs[0][0]
    names = [name for name, value in first.items() if isinstance(value, int | float)]
    print(f"\nLoad average {os.getloadavg()[0]:.1f}.\n")
    print("| figure | first | second | second / first | range |\n|---|---|---|---|---|")
    print(*(row(name, pairs) for name in names if name in pairs[0][1]), sep="\n")


if __name__ == "__main__":
    main()
