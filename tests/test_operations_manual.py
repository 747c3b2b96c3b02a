"""Links into the manual lead to paragraphs that are there; each alert has its own."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
RULES = (ROOT / "etc" / "prometheus" / "alerts.yml").read_text()
ALERTS = re.findall(r"alert: (\S+)", RULES)
MANUAL = "{{ $externalLabels.middlewared_manual }}"
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Those that GitHub, GitLab and others give to headings."""
    text = re.sub(r"(?m)^    .*$", "", page.read_text())
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


class LinkTests(SynchronousTestCase):
    """Of README.md, docs/ and the other pages."""

    def test_every_link_leads_somewhere(self) -> None:
        """Its file is there, and the heading that its anchor names."""
        broken = []
        for page in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]:
            for path, anchor in LINK.findall(page.read_text()):
                target = page.parent / path if path else page
                if not target.exists() or (anchor and anchor not in anchors(target)):
                    broken.append(f"{page.name}: {path}#{anchor}")
        self.assertEqual(broken, [])


class RunbookTests(SynchronousTestCase):
    """docs/alerts.md."""

    def test_every_alert_leads_to_its_paragraph(self) -> None:
        """Its annotation ``runbook_url``, after what the operator sets, is a path and an anchor."""
        runbooks = re.findall(r'(?m)^ +runbook_url: "(.*)"$', RULES)
        wanted = [f"{MANUAL}docs/alerts.md#{name.lower()}" for name in ALERTS]
        self.assertEqual(runbooks, wanted)
        self.assertLessEqual(set(map(str.lower, ALERTS)), anchors(ROOT / "docs" / "alerts.md"))

    def test_every_paragraph_has_its_parts(self) -> None:
        """What the alert means, with its severity, where to look, what to do; none is left over."""
        page = (ROOT / "docs" / "alerts.md").read_text()
        parts = (
            r"(?ms)^### (Middlewared\w+)\n\n\* \*\*Meaning\*\* \((\w+)\): .+?"
            r"^\* \*\*Look\*\*: .+?^\* \*\*Do\*\*: "
        )
        severities = re.findall(r"(?s)alert: (\S+).*?severity: (\w+)", RULES)
        self.assertEqual(sorted(re.findall(parts, page)), sorted(severities))
        self.assertEqual(page.count("### "), len(ALERTS))

    def test_every_alert_is_tested_where_the_manual_says(self) -> None:
        """Each is provoked by a fault, or the manual lists it as tested by promtool alone."""
        page = (ROOT / "docs" / "alerts.md").read_text()
        _, _, only = page.partition("With `promtool` only:")
        unprovoked = set(re.findall(r"Middlewared\w+", only))
        tests = "".join(
            (ROOT / "tests" / f"test_operations_{name}.py").read_text()
            for name in ("alerts", "dashboard")
        )
        tests = re.sub(r".*assertNotIn.*", "", tests)
        provoked = set(re.findall(r'"(Middlewared\w+)"', tests))
        self.assertEqual(provoked & unprovoked, set())
        self.assertEqual(provoked | unprovoked, set(ALERTS))
        units = "".join(p.read_text() for p in ROOT.glob("tests/operations/*_test.yml"))
        fired = set(re.findall(r"alertname: (\w+)\n +exp_alerts:", units))
        silent = set(re.findall(r"\{eval_time: \w+, alertname: (\w+)\}", units))
        self.assertEqual((fired, silent), (set(ALERTS), set(ALERTS)))
