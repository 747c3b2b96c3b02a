"""
Which test files are unit tests and which are flow tests: ``python tests/kinds.py unit``.
``python tests/kinds.py flow:2/3 unit`` prints the second of three parts of the flow tests, which
take about as long as each other, and all unit tests.

A unit test starts no process, neither itself nor through what it imports of the tests, and
does not have to wait for real time to pass. All others are flow tests. Nothing else decides it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
STARTS_PROCESSES = re.compile(r"\bsubprocess\b|spawnProcess|getProcessOutput")
# Without processes, but with time-outs that have to run out.
SLOW = {
    "test_outgoing_kept.py",
    "test_push_apns_paths.py",
    "test_push_apns_uncertain.py",
    "test_push_google_uncertain.py",
    "test_web_channel.py",
}
# Begun first, since what begins late and takes long is waited for at the end.
LONG = (
    "test_flow_history.py",
    "test_flow_cluster.py",
    "test_flow_console.py",
    "test_rendezvous_redis.py",
    "test_operations_alerts.py",
    "test_operations_dashboard.py",
    "test_web_openapi.py",
    "test_devices_postgres_faults.py",
    "test_flow_pushes.py",
    "test_devices_postgres.py",
    "test_flow_partition.py",
    "test_push_google_providers.py",
    "test_push_google_uncertain.py",
    "test_demo.py",
    "test_flow_calls.py",
    "test_outgoing_kept.py",
)


def files_of(kind: str) -> list[Path]:
    """The files of ``unit`` or ``flow``, those that take long first."""
    is_flow = {path: path.name in SLOW or starts(path) for path in TESTS.glob("test_*.py")}
    paths = sorted(path for path, flow in is_flow.items() if flow is (kind == "flow"))
    return sorted(paths, key=lambda path: LONG.index(path.name) if path.name in LONG else len(LONG))


@cache
def starts(path: Path) -> bool:
    """Whether a module of the tests, or one that it imports, starts processes."""
    if STARTS_PROCESSES.search(path.read_text(encoding="utf-8")):
        return True
    return any(starts(imported) for imported in imports_of(path))


def imports_of(path: Path) -> Iterator[Path]:
    """The modules of the tests that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for module in [node.module, *(f"{node.module}.{each.name}" for each in node.names)]:
                imported = TESTS.parent.joinpath(*module.split(".")).with_suffix(".py")
                if module.startswith("tests.") and imported.exists():
                    yield imported


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        kind, _, part = argument.partition(":")
        number, parts = map(int, part.split("/")) if part else (1, 1)
        for path in files_of(kind)[number - 1 :: parts]:
            print(path.relative_to(TESTS.parent))  # noqa: T201
