"""
The shipped alerts in a real Prometheus, provoked by faults of a real daemon.

Where Prometheus is installed; tests/operations has unit tests of every rule. Those about phones
and pushes are in tests/test_operations_dashboard.py, with the same servers as the panels.
"""

from __future__ import annotations

import json
import re
import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from middlewared.demo.stage import free_port
from middlewared.simulator.certificates import Validity
from middlewared.simulator.daemon_process import DaemonProcess
from tests.daemons import PORTS
from tests.prometheus import MANUAL, PROMETHEUS, RULES, PrometheusTestCase, quick

clock: Any = reactor
# Who claims to be a proxy, and is not known as one, is no PBX.
STRANGER = {"headers": {"X-Forwarded-For": "192.0.2.1"}}


class Alertmanager(Resource):
    """Keeps the alerts that Prometheus posts."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alerts: list[dict[str, Any]] = []
        self._port = clock.listenTCP(0, Site(self, timeout=None), interface="127.0.0.1")

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port.getHost().port}"

    def names(self) -> set[str]:
        """Which alerts it has got."""
        return {alert["labels"]["alertname"] for alert in self.alerts}

    def render_POST(self, request: Request) -> bytes:
        """Take some alerts."""
        assert request.content is not None
        self.alerts += json.load(request.content)
        return b""

    def stop(self) -> Any:
        """Listen no more."""
        return self._port.stopListening()


class AlertTests(PrometheusTestCase):
    """A daemon without Apple, accounts or devices, and its PBX."""

    async def test_faults_of_a_daemon(self) -> None:
        """
        No Apple, no account API, a certificate near its end, calls without devices, by a
        stranger and too many, a configuration that is refused, no calls, and the end.
        """
        if PROMETHEUS is None:
            return
        alertmanager = Alertmanager()
        self.addCleanup(alertmanager.stop)
        certificate = self.authority.apns_client(validity=Validity(to_days=2))
        healthy = (
            f"{PORTS}[accounts]\nbackend = voipgrid\nbase_url = http://127.0.0.1:{free_port()}\n"
            "[pbx:quiet]\nnetworks = 127.0.0.0/8\n"
            "[pbx:busy]\npassword = secret\nmax_calls_per_s = 1\n"
            f"[app:com.example:apns]\ncertificate = {certificate}\n"
            f"production_url = https://127.0.0.1:{free_port()}\nsandbox_url =\n"
        )
        daemon = await self.start_daemon(healthy)
        await self.watch(daemon, alertmanager=alertmanager.address)

        async def call() -> None:
            for _ in range(5):
                self.assertEqual(await self.place(daemon), "no-device")
            await self.register(daemon)

        await self.until_fired(
            "MiddlewaredNoAppleConnection",
            "MiddlewaredCredentialExpires",
            "MiddlewaredCredentialExpiresSoon",
            "MiddlewaredNoDevices",
            "MiddlewaredRegistrationsFail",
            "MiddlewaredDependencyDown",
            meanwhile=call,
        )
        self.write_config(f"{healthy}[nonsense]\n")
        daemon.signal(signal.SIGHUP)

        async def crowd() -> None:
            for _ in range(3):
                await self.place(daemon, auth=("busy", "secret"))
                self.assertEqual(await self.place(daemon, **STRANGER), "forbidden")

        await self.until_fired(
            "MiddlewaredReloadFailed",
            "MiddlewaredCallsRefused",
            "MiddlewaredCallsMalformed",
            meanwhile=crowd,
        )
        self.write_config(healthy)
        daemon.signal(signal.SIGHUP)
        while "MiddlewaredReloadFailed" in await self.firing():
            await deferLater(clock, 0.2)
        while "MiddlewaredNoCalls" not in await self.firing():
            # None for two windows: those of a "week" ago have been before them.
            for _ in range(100):
                await deferLater(clock, 0.2)
                if "MiddlewaredNoCalls" in await self.firing():
                    break
            else:
                for _ in range(30):
                    await call()
                    await deferLater(clock, 0.2)
        await daemon.stop()
        await self.until_fired("MiddlewaredDown")
        while "MiddlewaredDown" not in alertmanager.names():
            await deferLater(clock, 0.1)
        self.assertNotIn("MiddlewaredPushConfigFault", self.seen)
        self.assert_runbooks(alertmanager)

    def assert_runbooks(self, alertmanager: Alertmanager) -> None:
        """Their links lead to the operator's manual, and the label with its address is gone."""
        for alert in alertmanager.alerts:
            anchor = alert["labels"]["alertname"].lower()
            link = f"{MANUAL}docs/alerts.md#{anchor}"
            self.assertEqual(alert["annotations"]["runbook_url"], link)
            self.assertNotIn("middlewared_manual", alert["labels"])

    async def place(self, daemon: DaemonProcess, **more: Any) -> str:
        """Place a call; its outcome."""
        response = await self.client.post(
            daemon.url("/api/incoming-call/"),
            data={"sip_user_id": "123456789", "phonenumber": "100"},
            **more,
        )
        await response.content()
        (outcome,) = response.headers.getRawHeaders("X-Outcome")
        return str(outcome)

    async def register(self, daemon: DaemonProcess) -> None:
        """Register a device, which the account API cannot confirm."""
        response = await self.client.post(
            daemon.url("/api/apns-device/"),
            data={"sip_user_id": "123456789", "token": "ab" * 32, "app": "com.example"},
            auth=("123456789", "any"),
        )
        await response.content()
        self.assertIn(response.code, (429, 503))

    def test_every_window_is_shortened(self) -> None:
        """No rule would wait for minutes here."""
        left = re.findall(
            r"\[[^]]*[mhdw]\]|for: \d+[mhdw]|offset \d+[mhdw]", quick(RULES.read_text())
        )
        self.assertEqual(left, [])
