"""
How many machine instructions a push or a call takes, by valgrind: load elsewhere does not count.

    python bench/instructions.py apns                    # a push to Apple by the provider
    python bench/instructions.py fcm                     # a push to Google
    python bench/instructions.py "throughput --https"    # a call; any arguments of calls.py

``--checkout OLD`` measures the daemon or the client of another version. The process runs twice
with different numbers of pushes or calls; the difference of both is printed for each of them.
The kernel's instructions, such as those of system calls, are not counted. Takes two minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from contest import HERE, Client, apns_contest, fcm_contest, our_apns, our_fcm

PUSHES = 2_000, 6_000  # the warm-up of 2,000 is the same
CALLS = 200, 1_000
TOTAL = re.compile(r"I\s+refs:\s+([\d,]+)")


def valgrind(log: Path) -> tuple[str, ...]:
    """What counts the instructions of the command that follows."""
    quiet = f"--log-file={log}", "--cachegrind-out-file=/dev/null"
    return "valgrind", "--tool=cachegrind", "--cache-sim=no", *quiet


def total(log: Path) -> int:
    """All instructions of a process that has ended."""
    found = TOTAL.search(log.read_text())
    assert found is not None, log.read_text()
    return int(found[1].replace(",", ""))


def of_pushes(provider: str, folder: Path, checkout: Path, count: int) -> int:
    """All instructions of our client for so many pushes."""
    log = folder / "log"
    google = provider == "fcm"
    contest = (fcm_contest if google else apns_contest)(folder, checkout)
    ours = our_fcm(folder) if google else our_apns()
    contest.measure(Client("middlewared", count, 100, (*valgrind(log), *ours)))
    return total(log)


def of_calls(arguments: str, folder: Path, checkout: Path, count: int) -> int:
    """All instructions of the daemon for so many calls, after those of the warm-up."""
    log = folder / "log"
    subprocess.run(
        [
            *(sys.executable, str(HERE / "calls.py"), *arguments.split()),
            *("--calls", str(count), "--at-once", "2", "--checkout", str(checkout)),
            *("--under", " ".join(valgrind(log))),
        ],
        check=True,
    )
    return total(log)


def main() -> None:
    """Measure both sizes and print the difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what")
    parser.add_argument("--checkout", type=Path, default=HERE.parent)
    options = parser.parse_args()
    pushes = options.what in ("apns", "fcm")
    few, many = PUSHES if pushes else CALLS
    measure = of_pushes if pushes else of_calls
    with tempfile.TemporaryDirectory() as name:
        counts = [
            measure(options.what, Path(name), options.checkout.absolute(), count)
            for count in (few, many)
        ]
    each = (counts[1] - counts[0]) / (many - few)
    print(json.dumps({"what": options.what, "instructions_each": round(each), "totals": counts}))


if __name__ == "__main__":
    main()
