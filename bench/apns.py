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
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import attrs

HERE = Path(__file__).parent
ROUNDS = 3
MILLION = 1_000_000
Result = dict[str, Any]


@attrs.frozen
class Tools:
    """Where the other clients are installed."""

    folder: Path

    @property
    def python(self) -> Path:
        """A Python that has aioapns."""
        return self.folder / "aioapns" / "bin" / "python"

    @property
    def node_modules(self) -> Path:
        """A folder from which Node finds node-apn."""
        return self.folder / "node-apn"

    def install(self) -> None:
        """Install what is not there yet."""
        if not self.python.exists():
            venv.create(self.folder / "aioapns", with_pip=True)
        run(self.python, "-m", "pip", "install", "--quiet", "aioapns>=4,<5")
        self.node_modules.mkdir(exist_ok=True)
        if not (self.node_modules / "node_modules").exists():
            (self.node_modules / "package.json").write_text("{}")
            run(
                *("npm", "install", "--silent", "--no-audit", "--no-fund"),
                "@parse/node-apn@8",
                cwd=self.node_modules,
            )


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end; its output."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    return subprocess.run(
        [str(part) for part in command],
        check=True,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@contextmanager
def peer(server: Path, authority: Path) -> Iterator[str]:
    """The peer, for one run; its port."""
    with subprocess.Popen(
        ["node", str(HERE / "apns_peer.js"), str(server), str(authority)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


@attrs.frozen
class Bench:
    """All that the runs share."""

    tools: Tools
    server: Path
    client: Path
    authority: Path

    def middlewared(self, pushes: int, in_flight: int) -> Result:
        """Our provider."""
        return self._run(pushes, in_flight, sys.executable, HERE / "apns_middlewared.py")

    def aioapns(self, pushes: int, in_flight: int) -> Result:
        """aioapns 4 on asyncio."""
        return self._run(pushes, in_flight, self.tools.python, HERE / "apns_aioapns.py")

    def node_apn(self, pushes: int, in_flight: int) -> Result:
        """@parse/node-apn 8."""
        return self._run(pushes, in_flight, "node", HERE / "apns_node.js")

    def _run(self, pushes: int, in_flight: int, *command: str | Path) -> Result:
        with peer(self.server, self.authority) as port:
            output = run(
                *command,
                port,
                self.client,
                self.authority,
                str(pushes),
                str(in_flight),
                cwd=self.tools.node_modules,
            )
        result: Result = json.loads(output)
        assert not result["failed"], f"{result['failed']} pushes failed"
        return result


def per_cpu_second(result: Result) -> float:
    """How many pushes one second of CPU time is enough for."""
    return float(result["pushes"] / result["cpu_s"])


def middle(results: list[Result]) -> Result:
    """The run with the median cost."""
    wanted = median(per_cpu_second(each) for each in results)
    return next(each for each in results if per_cpu_second(each) == wanted)


def row(name: str, in_flight: int, result: Result, base: float) -> str:
    """One line of the table."""
    rate = per_cpu_second(result)
    return (
        f"| {name} | {result['pushes']:,} | {in_flight:,} | {rate:,.0f} | {base / rate:.1f}"
        f" | {result['pushes'] / result['wall_s']:,.0f} | {result['p50_ms']:.1f}"
        f" | {result['p99_ms']:.1f} | {result['rss_before_kb'] / 1024:.0f}"
        f" -> {result['rss_kb'] / 1024:.0f} |"
    )


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Those of the peer, of the clients, and of the authority of both."""
    sys.path.insert(0, str(HERE.parent))
    from middlewared.simulator.certificates import Authority

    authority = Authority(folder=folder)
    return authority.server(), authority.apns_client(), authority.certificate


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the million pushes")
    parser.add_argument("--tools", type=Path, default=Path(tempfile.gettempdir()) / "bench-apns")
    options = parser.parse_args()
    options.tools.mkdir(exist_ok=True, parents=True)
    tools = Tools(options.tools.resolve())
    tools.install()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(tools, *make_certificates(Path(folder)))
        contest: list[tuple[str, Callable[[int, int], Result], int, int]] = [
            ("middlewared", bench.middlewared, 40_000, 100),
            ("middlewared", bench.middlewared, 40_000, 1_000),
            ("@parse/node-apn 8", bench.node_apn, 20_000, 100),
            ("aioapns 4", bench.aioapns, 5_000, 100),
        ]
        rounds = [
            [measure(pushes, in_flight) for _, measure, pushes, in_flight in contest]
            for _ in range(ROUNDS)
        ]
        results = [middle(list(runs)) for runs in zip(*rounds, strict=True)]
        base = per_cpu_second(results[0])
        print(
            "| client | pushes | in flight | pushes per CPU s | ours is x times | pushes/s", end=""
        )
        print(" | p50 ms | p99 ms | memory MB |\n|---|---|---|---|---|---|---|---|---|")
        for (name, _, _, in_flight), result in zip(contest, results, strict=True):
            print(row(name, in_flight, result, base))
        if not options.quick:
            print(row("middlewared", 1_000, bench.middlewared(MILLION, 1_000), base))


if __name__ == "__main__":
    main()
