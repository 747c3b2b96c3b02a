"""
Measures the FCM client against firebase-admin 7 (Python) and a client on node:http2.

    python bench/fcm.py [--quick] [--tools DIRECTORY]

All clients push the same calls, 100 at a time, to the same peer, in turn, three times; the
median run by CPU time counts. Prints each of these as a line of JSON, then the table. The
peer answers with the headers and limits of Google's front ends. firebase-admin is installed
into a venv in the tools directory first, which needs PyPI; Node must be there. ``--quick``
sends a fourth of the pushes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from contest import HEAD, HERE, Client, Contest, Tools, make_certificates, per_cpu_second, row
from hpack import Encoder

HEADERS = [
    ("content-type", "application/json; charset=UTF-8"),
    ("vary", "Origin, X-Origin, Referer"),
    ("date", "Sun, 29 Nov 2026 12:00:00 GMT"),
    ("server", "scaffolding on HTTPServer2"),
    ("x-xss-protection", "0"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-content-type-options", "nosniff"),
    ("alt-svc", 'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000'),
]
"""Of Google's responses to a push."""


def header_blocks() -> str:
    """What the peer writes before each body: for HPACK with its table, without, and HTTP/1.1."""
    indexed, literal = Encoder(), Encoder()
    literal.header_table_size = 0
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
    return json.dumps(
        {
            "indexed": [_block(indexed), _block(indexed)],
            "literal": [_block(literal), _block(literal)],
            "http1": f"HTTP/1.1 200 OK\r\n{lines}".encode().hex(),
        }
    )


def _block(encoder: Encoder) -> str:
    """The next header block of a connection, with Huffman codes, as Google writes it."""
    return encoder.encode([(":status", "200"), *HEADERS]).hex()


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fourth of the pushes")
    parser.add_argument("--tools", type=Path, default=Path(tempfile.gettempdir()) / "bench-fcm")
    options = parser.parse_args()
    tools = Tools(options.tools.resolve())
    share = 4 if options.quick else 1
    ours = (sys.executable, HERE / "fcm_middlewared.py")
    firebase_admin = tools.python("firebase-admin", ">=7,<8"), HERE / "fcm_firebase_admin.py"
    clients = [
        Client("middlewared", 40_000 // share, 100, (*ours, "pool")),
        Client("middlewared, HTTP/1.1", 8_000 // share, 100, (*ours, "provider")),
        Client("node:http2", 40_000 // share, 100, ("node", HERE / "fcm_node.js")),
        Client("firebase-admin 7", 4_000 // share, 100, firebase_admin),
    ]
    with tempfile.TemporaryDirectory() as folder:
        server, _, authority = make_certificates(Path(folder))
        peer = ("node", HERE / "fcm_peer.js", server, header_blocks())
        results = Contest(peer, (authority,)).medians(clients)
    print(*map(json.dumps, results), HEAD, sep="\n")
    for result in results:
        print(row(result, per_cpu_second(results[0])))


if __name__ == "__main__":
    main()
