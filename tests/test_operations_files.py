"""The files shipped for operators name what exists."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

from middlewared.metrics import Metrics

ETC = Path(__file__).parent.parent / "etc"
DOCS = ETC.parent / "docs"
NAME = re.compile(r"\b(?:middlewared|vialer|process|python)_[a-z_]+\b")
RECORDED = re.compile(r"record: (\S+)")


def known_metrics() -> set[str]:
    """Every name that a scrape may have, with those of a histogram's series."""
    names = set()
    for family in Metrics().registry.collect():
        names.add(family.name)
        for suffix in ("_total", "_info", "_bucket", "_count", "_sum"):
            names.add(f"{family.name}{suffix}")
    return names | {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def spoken_of(text: str) -> set[str]:
    """The metrics that a text names."""
    return set(NAME.findall(text))


def expressions(node: object) -> list[str]:
    """Every query of a dashboard."""
    if isinstance(node, dict):
        found = [node["expr"]] if "expr" in node else []
        return found + [each for value in node.values() for each in expressions(value)]
    if isinstance(node, list):
        return [each for value in node for each in expressions(value)]
    return []


def dependencies() -> tuple[list[str], list[str]]:
    """What setup.py asks for: to run the daemon, and beside it to develop."""
    setup = ast.parse((ETC.parent / "setup.py").read_text())
    given = {
        keyword.arg: keyword.value
        for node in ast.walk(setup)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"
        for keyword in node.keywords
    }
    extras = ast.literal_eval(given["extras_require"])
    return ast.literal_eval(given["install_requires"]), extras["dev"]


def pinned(name: str) -> dict[str, str]:
    """The versions that a file of constraints has."""
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (ETC.parent / name).read_text()))


class ConstraintTests(SynchronousTestCase):
    """constraints.txt is for the daemon, constraints-dev.txt for all; ``nox -s pin`` makes them."""

    def assert_pinned(self, wanted: list[str], versions: dict[str, str]) -> None:
        for requirement in map(Requirement, wanted):
            version = versions.get(canonicalize_name(requirement.name), "none")
            self.assertTrue(version != "none" and version in requirement.specifier, requirement)

    def test_every_dependency_is_pinned(self) -> None:
        """To a version that setup.py allows."""
        daemon, dev = dependencies()
        self.assert_pinned(daemon, pinned("constraints.txt"))
        self.assert_pinned(daemon + dev, pinned("constraints-dev.txt"))

    def test_both_files_agree(self) -> None:
        """Tests run with the versions that operators install."""
        tested = pinned("constraints-dev.txt").items()
        self.assertLessEqual(pinned("constraints.txt").items(), tested)


class ShippedFileTests(SynchronousTestCase):
    """What promtool cannot see: that names are those of our metrics."""

    def test_alerts_name_known_metrics(self) -> None:
        """An alert on a metric that does not exist would never fire."""
        rules = (ETC / "prometheus" / "alerts.yml").read_text()
        rules = rules.replace("middlewared_manual", "")  # a label
        self.assertLessEqual(spoken_of(rules), known_metrics())

    def test_dashboard_shows_known_metrics(self) -> None:
        """The dashboard is JSON, its panels are distinct, its queries have data."""
        dashboard = json.loads((ETC / "grafana" / "middlewared.json").read_text())
        queries = expressions(dashboard)
        self.assertGreater(len(queries), 20)
        self.assertLessEqual(spoken_of(" ".join(queries)), known_metrics())
        ids = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))

    def test_every_metric_is_explained(self) -> None:
        """docs/metrics.md explains each metric of ours, and each recorded series."""
        page = (DOCS / "metrics.md").read_text()
        ours = {
            family.name
            for family in Metrics().registry.collect()
            if family.name.startswith(("middlewared", "vialer"))
        }
        rules = (ETC / "prometheus" / "alerts.yml").read_text()
        wanted = ours | set(RECORDED.findall(rules))
        self.assertEqual({name for name in wanted if name not in page}, set())
