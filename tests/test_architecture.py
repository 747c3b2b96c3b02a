"""Which room may know which, read from the imports."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).parent.parent / "middlewared"
SHARED_NAMES = {"__init__", "__main__", "interface"}
WIRING = {"service", "cli", "demo"}
# The connections of the rooms that store rows.
DATABASE = {"database", "devices", "history"}
# What every room may know: the domain's words, and time.
COMMON = {
    "model",
    "errors",
    "clock",
    "background",
    "backoff",
    "basic_auth",
    "booleans",
    "immediate_writes",
    "networks",
    "waiting",
    "quoting",
    "__init__",
}


def room_of(module: str) -> str:
    """The room a module of ours is in: ``middlewared.push.http2.pool`` is in ``push``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def parsed(path: Path) -> ast.Module:
    """A module's source."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The modules of ours that the module at ``path`` imports, for typing too."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            found.update([node.module] + [f"{node.module}.{n.name}" for n in node.names])
    return frozenset(name for name in found if name.split(".")[0] == "middlewared")


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


class ArchitectureTests(SynchronousTestCase):
    """A room knows the others by their interfaces alone."""

    def test_foreign_rooms_are_known_by_interface(self) -> None:
        """Only the wiring imports another room's implementation."""
        wrong = []
        for module, path in modules().items():
            room = room_of(module)
            if room in WIRING | {"simulator"}:
                continue
            for imported in imports_of(path) & modules().keys():
                other = room_of(imported)
                known = other == room or other in COMMON or is_interface(imported)
                known |= other == "database" and room in DATABASE
                known |= other == "web" and room == "console"
                if not known:
                    wrong.append(f"{module} imports {imported}")
        self.assertEqual(wrong, [])

    def test_the_domain_imports_no_room(self) -> None:
        """The common words import nothing of ours."""
        for name in ("model", "errors", "clock", "background", "quoting"):
            self.assertEqual(imports_of(PACKAGE / f"{name}.py"), frozenset(), name)

    def test_interfaces_know_the_domain_alone(self) -> None:
        """A contract depends on no implementation."""
        for module, path in modules().items():
            if is_interface(module):
                rooms = {room_of(imported) for imported in imports_of(path)}
                self.assertLessEqual(rooms, COMMON | {room_of(module)}, module)

    def test_the_wiring_is_imported_by_no_room(self) -> None:
        """service is known to the plugin, the command line and the demo only."""
        wrong = [
            module
            for module, path in modules().items()
            if room_of(module) not in WIRING
            and any(room_of(imported) in WIRING for imported in imports_of(path))
        ]
        self.assertEqual(wrong, [])

    def test_both_runners_find_all_tests(self) -> None:
        """trial passes over functions outside a class without a word; pytest does not."""
        outside = [
            f"{path.name}: {node.name}"
            for path in Path(__file__).parent.rglob("*.py")
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if node.name.startswith("test")
        ]
        self.assertEqual(outside, [])

    def test_http2_serves_any_provider(self) -> None:
        """The HTTP/2 client knows neither Apple nor Google."""
        http2 = PACKAGE / "push" / "http2"
        imported = {name for path in http2.glob("*.py") for name in imports_of(path)}
        providers = ("middlewared.push.apns", "middlewared.push.google")
        self.assertEqual([name for name in imported if name.startswith(providers)], [])

    def test_the_simulator_is_for_demo_and_tests(self) -> None:
        """The daemon itself never imports the simulated peers."""
        wrong = [
            module
            for module, path in modules().items()
            if room_of(module) not in {"simulator", "demo", "cli"}
            and any(room_of(imported) == "simulator" for imported in imports_of(path))
        ]
        self.assertEqual(wrong, [])

    def test_the_reactor_is_passed_in(self) -> None:
        """No module outside the wiring takes the global reactor."""
        wrong = [
            module
            for module, path in modules().items()
            if room_of(module) not in WIRING | {"simulator"}
            and "from twisted.internet import reactor" in path.read_text(encoding="utf-8")
        ]
        self.assertEqual(wrong, [])

    def test_names_are_unique(self) -> None:
        """A file or class is found by its name: neither occurs twice in the package."""
        files = [p.stem for p in modules().values() if p.stem not in SHARED_NAMES]
        self.assertEqual([name for name, count in Counter(files).items() if count > 1], [])
        classes = [
            node.name
            for path in modules().values()
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.ClassDef)
        ]
        self.assertEqual([name for name, count in Counter(classes).items() if count > 1], [])

    def test_files_stay_readable(self) -> None:
        """A file above 400 lines is split."""
        long = [
            f"{path}: {lines}"
            for path in modules().values()
            if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
        ]
        self.assertEqual(long, [])


def is_interface(module: str) -> bool:
    """Whether a module is a seam's contract."""
    return module.endswith(".interface") or module in {
        "middlewared.calls.trace",  # a value that the web hands in with each call
        "middlewared.history.call_story",  # its values in words, for console and commands alike
        "middlewared.history.json_forms",  # the same in JSON
    }
