"""A real Prometheus with the shipped rules, whose windows and waits are of seconds."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from middlewared.demo.stage import free_port
from middlewared.simulator.daemon_process import DaemonProcess
from tests.pushing import PushingTestCase

clock: Any = reactor
PROMETHEUS = shutil.which("prometheus")
RULES = Path(__file__).parent.parent / "etc" / "prometheus" / "alerts.yml"
PATIENCE_S = 60.0
MANUAL = "https://git.example.com/blob/main/"
SECONDS = {"1m": "1s", "2m": "2s", "5m": "4s", "10m": "4s", "15m": "6s", "1h": "8s"}
SECONDS |= {"1d": "60s", "1w": "12s"}


def quick(rules: str) -> str:
    """The same rules with windows and waits of seconds."""
    return re.sub(
        r"(\[|for: |offset )(\d+[mhdw])\b", lambda found: found[1] + SECONDS[found[2]], rules
    )


class Program(ProcessProtocol):
    """A program that the test ends."""

    def __init__(self, folder: Path, *command: str) -> None:
        self._ended: Deferred[None] = Deferred()
        self._process = clock.spawnProcess(self, command[0], command, path=str(folder))

    def processEnded(self, reason: Failure) -> None:
        self._ended.callback(None)

    def kill(self) -> Deferred[None]:
        """End it; fires when it is gone."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")
        return self._ended


class PrometheusTestCase(PushingTestCase):
    """
    Prometheus scrapes twice a second, under job names that no rule knows.

    :ivar seen: the alerts that have fired.
    """

    def setUp(self) -> None:
        super().setUp()
        self.seen: set[str] = set()

    def run_program(self, *command: str) -> Program:
        """Start a program in the test's folder, which is ended with the test at the latest."""
        program = Program(self.directory, *command)
        self.addCleanup(program.kill)
        return program

    async def watch(self, daemon: DaemonProcess, *others: str, alertmanager: str = "") -> None:
        """Start Prometheus, and wait until it has scraped."""
        (self.directory / "alerts.yml").write_text(quick(RULES.read_text()))
        targets = [daemon.addresses["metrics"], *others]
        config = {
            "global": {
                "scrape_interval": "500ms",
                "evaluation_interval": "500ms",
                "external_labels": {"middlewared_manual": MANUAL},
            },
            "rule_files": ["alerts.yml"],
            "alerting": {
                "alert_relabel_configs": [{"regex": "middlewared_manual", "action": "labeldrop"}],
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]
                if alertmanager
                else [],
            },
            "scrape_configs": [
                {"job_name": f"voip{number}", "static_configs": [{"targets": [target]}]}
                for number, target in enumerate(targets)
            ],
        }
        # JSON is YAML.
        (self.directory / "prometheus.yml").write_text(json.dumps(config))
        port = free_port()
        self.prometheus = f"http://127.0.0.1:{port}"
        self.run_program(
            str(PROMETHEUS),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        while len(await self.query("up == 1")) < len(targets):
            await deferLater(clock, 0.2)

    async def query(self, expression: str) -> Sequence[dict[str, Any]]:
        """The samples that an expression has now; none while Prometheus is not up."""
        found = await self._ask("query", query=expression)
        samples: list[dict[str, Any]] = found["result"] if found else []
        return [sample for sample in samples if sample["value"][1] != "NaN"]

    async def firing(self) -> set[str]:
        """The alerts that fire now; none while Prometheus is not up."""
        found = await self._ask("alerts")
        alerts = found["alerts"] if found else []
        now = {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}
        self.seen |= now
        return now

    async def _ask(self, path: str, **parameters: str) -> Any:
        try:
            url = f"{self.prometheus}/api/v1/{path}?{urlencode(parameters)}"
            answered = json.loads((await self.get(url)).text)
        except Exception:
            return None
        if answered["status"] != "success":
            self.fail(f"{parameters}: {answered}")
        return answered["data"]

    async def until_fired(
        self, *names: str, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Wait until all these alerts have fired at some time, and do ``meanwhile`` repeatedly."""
        give_up_at = clock.seconds() + PATIENCE_S
        await self.firing()
        while missing := set(names) - self.seen:
            if clock.seconds() > give_up_at:
                self.fail(f"did not fire: {sorted(missing)}")
            await deferLater(clock, 0.2)
            if meanwhile is not None:
                await meanwhile()
            await self.firing()
