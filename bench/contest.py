"""
Push clients in turn at the same peer, over one connection, and the table of what they cost.

A client is a program that gets a port, a CA, how many pushes to send and how many of them at
a time, and prints a JSON object as :func:`pushes.measure` does. A peer prints its port, and at
the end of its input a JSON object: pushes, http2_connections, perhaps http1_connections, cpu_s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from statistics import median
from typing import Any

import attrs
from hpack import Encoder

sys.path.insert(0, str(Path(__file__).parents[1]))

from middlewared.simulator.certificates import Authority, write_service_account

HERE = Path(__file__).parent
ROUNDS = 3
HEAD = (
    "| client | pushes | in flight | pushes per CPU s | ours is x times | pushes/s | p50 ms"
    " | p99 ms | memory MB | connections | peer |\n" + "|---" * 11 + "|"
)
GOOGLE_HEADERS = [
    ("content-type", "application/json; charset=UTF-8"),
    ("vary", "Origin"),
    ("vary", "X-Origin"),
    ("vary", "Referer"),
    ("date", "Sun, 29 Nov 2026 12:00:00 GMT"),
    ("server", "scaffolding on HTTPServer2"),
    ("x-xss-protection", "0"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-content-type-options", "nosniff"),
    ("alt-svc", 'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000'),
]
"""Of Google's responses to a push."""

Result = dict[str, Any]


@attrs.frozen
class Tools:
    """Where other clients are installed, each for itself; what is there stays."""

    folder: Path

    def python(self, package: str, version: str) -> Path:
        """A Python that has a package of PyPI."""
        python = self.folder / package / "bin" / "python"
        if not python.exists():
            venv.create(self.folder / package, with_pip=True)
        run(python, "-m", "pip", "install", "-qq", package + version)
        return python

    def node_modules(self, name: str, package: str) -> Path:
        """A folder from which Node finds a package of npm."""
        folder = self.folder / name
        if not (folder / "node_modules").exists():
            folder.mkdir(exist_ok=True, parents=True)
            (folder / "package.json").write_text("{}")
            run("npm", "install", "--silent", "--no-audit", "--no-fund", package, cwd=folder)
        return folder


@attrs.frozen
class Client:
    """One line of the table; ``arguments`` come before the port."""

    name: str
    pushes: int
    in_flight: int
    arguments: tuple[str | Path, ...]
    cwd: Path | None = None


@attrs.frozen
class Contest:
    """
    One peer for all.

    :ivar credentials: what every client gets after the port.
    :ivar checkout: from where our own client has the package.
    """

    peer: tuple[str | Path, ...]
    credentials: tuple[str | Path, ...]
    checkout: Path = HERE.parent

    def measure(self, client: Client) -> Result:
        """One run of a client at a peer of its own."""
        with subprocess.Popen(
            [str(part) for part in self.peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as peer:
            assert peer.stdout is not None
            port = peer.stdout.readline().strip()
            counts = str(client.pushes), str(client.in_flight)
            command = *client.arguments, port, *self.credentials, *counts
            output = run(*command, cwd=client.cwd, checkout=self.checkout)
            seen = json.loads(peer.communicate()[0])
        result: Result = {"client": client.name, "in_flight": client.in_flight}
        result |= json.loads(output)
        assert not result["failed"], f"{client.name}: {result['failed']} pushes failed"
        result["connections"] = connections(seen)
        share = seen["cpu_s"] / seen["pushes"] * result["pushes"] / result["wall_s"]
        return {**result, "peer_cpu": round(share, 2)}

    def medians(self, clients: list[Client]) -> list[Result]:
        """The median run of each, by CPU time; they run in turn, since a machine's speed drifts."""
        rounds = [[self.measure(client) for client in clients] for _ in range(ROUNDS)]
        return [_middle(list(runs)) for runs in zip(*rounds, strict=True)]


def run(*command: str | Path, cwd: Path | None = None, checkout: Path = HERE.parent) -> str:
    """Run a program to its end; its output."""
    return subprocess.run(
        [str(part) for part in command],
        check=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def connections(seen: Result) -> str:
    """How many the peer had pushes on."""
    counts = {"h2": seen["http2_connections"], "HTTP/1.1": seen.get("http1_connections", 0)}
    return ", ".join(f"{count} {protocol}" for protocol, count in counts.items() if count)


def per_cpu_second(result: Result) -> float:
    """How many pushes one second of CPU time is enough for."""
    return float(result["pushes"] / result["cpu_s"])


def row(result: Result, ours: float) -> str:
    """One line of the table; ``ours`` is what our client does per CPU second."""
    rate = per_cpu_second(result)
    return (
        f"| {result['client']} | {result['pushes']:,} | {result['in_flight']:,} | {rate:,.0f}"
        f" | {ours / rate:.1f} | {result['pushes'] / result['wall_s']:,.0f}"
        f" | {result['p50_ms']:.1f} | {result['p99_ms']:.1f}"
        f" | {result['rss_before_kb'] / 1024:.0f} -> {result['rss_kb'] / 1024:.0f}"
        f" | {result['connections']} | {result['peer_cpu']:.0%} |"
    )


def apns_contest(folder: Path, checkout: Path = HERE.parent) -> Contest:
    """Apple's part is Node's HTTP/2 with TLS and client certificates."""
    server, client, authority = _certificates(folder)
    peer = "node", HERE / "apns_peer.js", server, authority
    return Contest(peer, (client, authority), checkout)


def fcm_contest(folder: Path, checkout: Path = HERE.parent) -> Contest:
    """Google's part; see fcm_peer.js."""
    server, _, authority = _certificates(folder)
    peer = "node", HERE / "fcm_peer.js", server, _header_blocks()
    return Contest(peer, (authority,), checkout)


def our_apns() -> tuple[str | Path, ...]:
    """Our provider for Apple, as the arguments of a client."""
    return sys.executable, HERE / "apns_middlewared.py"


def our_fcm(folder: Path, protocol: str = "h2") -> tuple[str | Path, ...]:
    """Our provider for Google, as the arguments of a client."""
    account = write_service_account(folder, token_uri="https://localhost/token", project_id="p")
    return sys.executable, HERE / "fcm_middlewared.py", protocol, account.path


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Those of the peer, of the clients, and of the authority of both."""
    authority = Authority(folder=folder)
    return authority.server(), authority.apns_client(), authority.certificate


def _header_blocks() -> str:
    """What the peer writes before each body: for HPACK with its table, without, and HTTP/1.1."""
    indexed, literal = Encoder(), Encoder()
    literal.header_table_size = 0
    lines = "".join(f"{name}: {value}\r\n" for name, value in GOOGLE_HEADERS)
    return json.dumps(
        {
            "indexed": [_block(indexed), _block(indexed)],
            "literal": [_block(literal), _block(literal)],
            "http1": f"HTTP/1.1 200 OK\r\n{lines}".encode().hex(),
        }
    )


def _block(encoder: Encoder) -> str:
    """The next header block of a connection, with Huffman codes, as Google writes it."""
    return encoder.encode([(":status", "200"), *GOOGLE_HEADERS]).hex()


def _middle(results: list[Result]) -> Result:
    wanted = median(per_cpu_second(each) for each in results)
    return next(each for each in results if per_cpu_second(each) == wanted)
