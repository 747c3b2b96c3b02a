"""
Whose code a daemon's reactor was running, from what py-spy recorded.

    python bench/calls.py throughput --https --calls 20000 \\
        --attach "py-spy record --rate 200 --format raw --output calls.raw --pid"
    python bench/where.py calls.raw [old.raw]

Each sample counts for its innermost Python function alone. Of two files, it compares.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

# The first that is found in "function (file:line)" of a sample.
OWNERS = {
    r"untilConcludes|writeSomeData|Connection\.doRead": "system calls",
    r"doPoll": "waiting",
    r"internet/defer\.py": "Deferreds",
    r"OpenSSL/|protocols/tls\.py|service_identity/": "TLS",
    r"hpack/|h2/": "hpack",
    r"web/http_headers\.py": "headers",
    r"twisted/web/(_newclient|client|iweb)|treq/|hyperlink/": "HTTP client",
    r"twisted/(web|protocols)/|klein/|werkzeug/": "HTTP server",
    r"twisted/logger/": "logger",
    r"twisted/": "reactor, transports, timers",
    r"prometheus_client/": "prometheus-client",
    r"middlewared[/.]push": "ours: push",
    r"middlewared[/.]outgoing": "ours: outgoing",
    r"middlewared[/.]web": "ours: web",
    r"middlewared": "ours: the rest",
}
REACTOR = "ReactorBase.mainLoop"


def owner(frame: str) -> str:
    """Whose a function is."""
    return next((name for key, name in OWNERS.items() if re.search(key, frame)), "Python")


def shares(file: Path) -> dict[str, float]:
    """The share of each owner in the samples of the reactor's thread."""
    counts: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if REACTOR in stack:
            counts[owner(stack.rpartition(";")[2])] += int(count)
    return {name: count / counts.total() for name, count in counts.most_common()}


def main() -> None:
    """Print the table."""
    files = [Path(name) for name in sys.argv[1:]]
    columns = [shares(file) for file in files]
    print("| whose | " + " | ".join(file.stem for file in files) + " |")
    print("|---" * (len(files) + 1) + "|")
    for name in dict.fromkeys(name for column in columns for name in column):
        print(f"| {name} | " + " | ".join(f"{each.get(name, 0):.0%}" for each in columns) + " |")


if __name__ == "__main__":
    main()
