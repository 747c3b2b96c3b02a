"""
Measures the APNs client against aioapns 4 and @parse/node-apn 8, and prints a table.

    python bench/apns.py [--quick] [--tools DIRECTORY]

All clients push the same calls over one connection to the same peer (Node's HTTP/2 with
TLS and client certificates), in turn, three times; the median run counts. The other
clients are installed into the tools directory first: that needs Node with npm, PyPI and
the npm registry. ``--quick`` leaves out the million pushes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from contest import HEAD, HERE, Client, Tools, apns_contest, our_apns, per_cpu_second, row

MILLION = 1_000_000


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the million pushes")
    parser.add_argument("--tools", type=Path, default=Path(tempfile.gettempdir()) / "bench-apns")
    options = parser.parse_args()
    tools = Tools(options.tools.resolve())
    ours = our_apns()
    aioapns = tools.python("aioapns", ">=4,<5"), HERE / "apns_aioapns.py"
    node = tools.node_modules("node-apn", "@parse/node-apn@8")
    clients = [
        Client("middlewared", 40_000, 100, ours),
        Client("middlewared", 40_000, 1_000, ours),
        Client("@parse/node-apn 8", 20_000, 100, ("node", HERE / "apns_node.js"), node),
        Client("aioapns 4", 5_000, 100, aioapns),
    ]
    with tempfile.TemporaryDirectory() as folder:
        contest = apns_contest(Path(folder))
        results = contest.medians(clients)
        base = per_cpu_second(results[0])
        print(HEAD)
        for result in results:
            print(row(result, base))
        if not options.quick:
            print(row(contest.measure(Client("middlewared", MILLION, 1_000, ours)), base))


if __name__ == "__main__":
    main()
