"""
Measures the FCM client against firebase-admin 7 (Python) and a client on node:http2.

    python bench/fcm.py [--quick] [--write] [--tools DIRECTORY]

All clients push the same calls, 100 at a time, to the same peer, in turn, three times; the
median run by CPU time counts. Prints each of these as a line of JSON, then the table. The
peer answers with the headers and limits of Google's front ends. firebase-admin is installed
into a venv in the tools directory first, which needs PyPI; Node must be there. ``--quick``
sends a fourth of the pushes, ``--write`` puts the table into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from pathlib import Path

from all import README, machine
from contest import HEAD, HERE, Client, Tools, fcm_contest, our_fcm, per_cpu_second, row

TABLE = re.compile(r"(<!-- fcm -->\n).*(<!-- /fcm -->)", re.DOTALL)


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fourth of the pushes")
    parser.add_argument("--write", action="store_true", help="the table, into README.md")
    parser.add_argument("--tools", type=Path, default=Path(tempfile.gettempdir()) / "bench-fcm")
    options = parser.parse_args()
    tools = Tools(options.tools.resolve())
    share = 4 if options.quick else 1
    firebase_admin = tools.python("firebase-admin", ">=7,<8"), HERE / "fcm_firebase_admin.py"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clients = [
            Client("middlewared", 40_000 // share, 100, our_fcm(folder)),
            Client("middlewared, HTTP/1.1", 8_000 // share, 100, our_fcm(folder, "http/1.1")),
            Client("node:http2", 40_000 // share, 100, ("node", HERE / "fcm_node.js")),
            Client("firebase-admin 7", 4_000 // share, 100, firebase_admin),
        ]
        results = fcm_contest(folder).medians(clients)
    base = per_cpu_second(results[0])
    table = "\n".join([HEAD, *(row(result, base) for result in results)])
    print(*map(json.dumps, results), table, sep="\n")
    if options.write:
        text = f"Measured on {machine()}, load average {os.getloadavg()[0]:.1f}.\n\n{table}\n"
        README.write_text(TABLE.sub(lambda found: found[1] + text + found[2], README.read_text()))


if __name__ == "__main__":
    main()
