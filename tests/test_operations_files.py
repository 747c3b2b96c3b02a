"""The files shipped for operators speak of what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from middlewared.metrics import Metrics

ETC = Path(__file__).parent.parent / "etc"
DOCS = ETC.parent / "docs"
NAME = re.compile(r"\b(?:middlewared|vialer|process|python)_[a-z_]+\b")
RECORDED = re.compile(r"record: (\S+)")
ALERT = re.compile(r"alert: (\S+)")


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


class ShippedFileTests(SynchronousTestCase):
    """What promtool cannot see: that names are those of our metrics."""

    def test_alerts_name_known_metrics(self) -> None:
        """An alert on a metric that does not exist would never fire."""
        rules = (ETC / "prometheus" / "alerts.yml").read_text()
        self.assertLessEqual(spoken_of(rules), known_metrics())

    def test_dashboard_shows_known_metrics(self) -> None:
        """The dashboard is JSON, its panels are distinct, its queries have data."""
        dashboard = json.loads((ETC / "grafana" / "middlewared.json").read_text())
        queries = expressions(dashboard)
        self.assertGreater(len(queries), 20)
        self.assertLessEqual(spoken_of(" ".join(queries)), known_metrics())
        ids = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))

    def test_every_metric_and_alert_is_explained(self) -> None:
        """docs/metrics.md has a word on each metric of ours, and on each alert what to do."""
        page = (DOCS / "metrics.md").read_text()
        ours = {
            family.name
            for family in Metrics().registry.collect()
            if family.name.startswith(("middlewared", "vialer"))
        }
        rules = (ETC / "prometheus" / "alerts.yml").read_text()
        wanted = ours | set(ALERT.findall(rules)) | set(RECORDED.findall(rules))
        self.assertEqual({name for name in wanted if name not in page}, set())
