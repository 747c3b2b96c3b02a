"""
The shipped alerts in a real Prometheus, provoked by faults of a real daemon.

Where Prometheus is installed; tests/operations/alerts_test.yml has every rule.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from middlewared.demo.stage import free_port
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority
from middlewared.simulator.daemon_process import DaemonProcess
from tests.daemons import PORTS, DaemonTestCase

clock: Any = reactor
PROMETHEUS = shutil.which("prometheus")
RULES = Path(__file__).parent.parent / "etc" / "prometheus" / "alerts.yml"
SECONDS = {"15m": "6s", "10m": "4s", "5m": "4s", "2m": "2s", "1m": "1s", "1h": "8s"}


class Ended(ProcessProtocol):
    """Reports the end of a process."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, Exception)
        self.ended.callback(None)


def quick(rules: str) -> str:
    """The same rules with windows and waits of seconds."""
    for long, short in SECONDS.items():
        rules = rules.replace(f"[{long}]", f"[{short}]").replace(
            f"for: {long}\n", f"for: {short}\n"
        )
        rules = rules.replace(f" offset {long}\n", f" offset {short}\n")
    return rules


class AlertTests(DaemonTestCase):
    """Prometheus scrapes the daemon each second, under a job name of its own."""

    async def watch(self, daemon: DaemonProcess) -> None:
        """Start Prometheus."""
        (self.directory / "alerts.yml").write_text(quick(RULES.read_text()))
        target = daemon.url("", "metrics").removeprefix("http://").strip("/")
        (self.directory / "prometheus.yml").write_text(
            "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n"
            "rule_files: [alerts.yml]\n"
            "scrape_configs: [{job_name: voip, static_configs: [{targets: ['" + target + "']}]}]\n"
        )
        port = free_port()
        self.prometheus = f"http://127.0.0.1:{port}"
        protocol = Ended()
        process = clock.spawnProcess(
            protocol,
            str(PROMETHEUS),
            [
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=tsdb",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            path=str(self.directory),
        )

        def stop() -> Deferred[None]:
            process.signalProcess("KILL")
            return protocol.ended

        self.addCleanup(stop)

    async def firing(self) -> set[str]:
        """The alerts that fire now; none while Prometheus is not up."""
        try:
            found = json.loads((await self.get(f"{self.prometheus}/api/v1/alerts")).text)
        except Exception:
            return set()
        return {
            each["labels"]["alertname"]
            for each in found["data"]["alerts"]
            if each["state"] == "firing"
        }

    async def until(self, reached: Callable[[set[str]], bool]) -> set[str]:
        """Wait until the alerts are so; all that fired meanwhile."""
        seen: set[str] = set()
        while True:
            now = await self.firing()
            seen |= now
            if reached(now):
                return seen
            await deferLater(clock, 0.2)

    async def test_faults_of_a_daemon(self) -> None:
        """No Apple, a configuration that is refused, calls without devices, and the end."""
        if PROMETHEUS is None:
            return
        authority = Authority(folder=self.directory)
        healthy = (
            f"{PORTS}[app:com.example:apns]\ncertificate = {authority.apns_client()}\n"
            f"production_url = https://127.0.0.1:{free_port()}\nsandbox_url =\n"
        )
        daemon = await self.start_daemon(healthy)
        await self.watch(daemon)
        await self.until(lambda now: "MiddlewaredNoAppleConnection" in now)
        self.write_config(f"{healthy}[nonsense]\n")
        daemon.signal(signal.SIGHUP)
        await self.until(lambda now: "MiddlewaredReloadFailed" in now)
        self.write_config(healthy)
        daemon.signal(signal.SIGHUP)
        await self.until(lambda now: "MiddlewaredReloadFailed" not in now)
        calls = 0
        while not {"MiddlewaredNoDevices"} <= await self.firing():
            calls += 1
            answered = await self.post(
                daemon.url("/api/incoming-call/"), sip_user_id="123456789", phonenumber="100"
            )
            self.assertEqual(answered.header("X-Outcome"), "no-device")
            await deferLater(clock, 0.02)
        while "MiddlewaredCallsMalformed" not in await self.firing():
            await self.post(daemon.url("/api/incoming-call/"), sip_user_id="x")
            await deferLater(clock, 0.02)
        await daemon.stop()
        seen = await self.until(lambda now: "MiddlewaredDown" in now)
        self.assertNotIn("MiddlewaredPushConfigFault", seen)

    async def test_faults_of_pushes(self) -> None:
        """One refused push, the first ever, is enough; then all calls of the app fail."""
        if PROMETHEUS is None:
            return
        authority = Authority(folder=self.directory)
        apple = AppleServer(
            reactor=reactor,
            certificate=authority.server(name="apple"),
            client_authority=authority.certificate,
            topics=["com.example.other.voip"],
        )
        await apple.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(apple.stop()))
        daemon = await self.start_daemon(
            f"{PORTS}[accounts]\nbackend = open\n[app:com.example:apns]\n"
            f"certificate = {authority.apns_client()}\nca_file = {authority.certificate}\n"
            f"production_url = {apple.url}\nsandbox_url =\n"
        )
        await self.watch(daemon)
        registered = await self.client.post(
            daemon.url("/api/apns-device/"),
            data={"sip_user_id": "123456789", "token": "ab" * 32, "app": "com.example"},
            auth=("123456789", "any"),
        )
        self.assertEqual(registered.code, 201)
        while "middlewared_build_info" not in await self.series():
            await deferLater(clock, 0.2)
        await self.call(daemon)
        seen = await self.until(lambda now: "MiddlewaredPushConfigFault" in now)
        while "MiddlewaredAppDoesNotWake" not in await self.firing():
            await self.call(daemon)
            await deferLater(clock, 0.02)
        self.assertNotIn("MiddlewaredNoAppleConnection", seen)

    async def call(self, daemon: DaemonProcess) -> None:
        """Place a call, whose push Apple refuses."""
        answered = await self.post(
            daemon.url("/api/incoming-call/"), sip_user_id="123456789", phonenumber="100"
        )
        self.assertEqual(answered.header("X-Outcome"), "push-failed")

    async def series(self) -> str:
        """The names of what Prometheus has scraped."""
        try:
            return (await self.get(f"{self.prometheus}/api/v1/label/__name__/values")).text
        except Exception:
            return ""

    def test_every_window_is_shortened(self) -> None:
        """No rule would wait for minutes here; those that compare with a day or week stay."""
        left = re.findall(r"\[[^]]*[mh]\]|for: \d+[mh]|offset \d+[mh]", quick(RULES.read_text()))
        self.assertEqual(left, [])
