"""A fleet of 200 brands at one daemon: started, reloaded, and what it costs."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import (
    Authority,
    IssuedServiceAccount,
    write_provider_key,
    write_service_account,
)
from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.google_server import GoogleServer
from tests.daemons import PORTS, DaemonTestCase

clock: Any = reactor
BRANDS = 100
MOST_MB = 400


class BrandsTests(DaemonTestCase):
    """100 brands, each with an iOS app of one team key, and an Android app of its own account."""

    spawner = reactor  # its memory is its own

    async def start(self) -> DaemonProcess:
        """Apple, Google, a file for each brand, and the daemon."""
        authority = Authority(folder=self.directory)
        key = write_provider_key(self.directory)
        self.apple = AppleServer(
            reactor=reactor, certificate=authority.server(name="apple"), provider_keys=[key]
        )
        await self.apple.start()
        self.addCleanup(self.apple.stop)
        self.google = GoogleServer(reactor=reactor, certificate=authority.server(name="google"))
        await self.google.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))
        self.account = write_service_account(self.directory, token_uri=self.google.token_uri)
        (self.directory / "conf.d").mkdir()
        for number in range(BRANDS):
            self.write_brand(number)
        return await self.start_daemon(
            f"{PORTS}[include]\nfiles = conf.d/*.ini\n"
            f"[app:*:apns]\nkey_file = {key.path}\nkey_id = {key.key_id}\n"
            f"team_id = {key.team_id}\nca_file = {authority.certificate}\n"
            f"production_url = {self.apple.url}\nsandbox_url =\n"
            f"[app:*:android]\nurl = {self.google.url}\nca_file = {authority.certificate}\n"
        )

    def write_brand(self, number: int, key: str = "first") -> None:
        """The section file of a brand, and its service account, which Google knows."""
        account: IssuedServiceAccount = attrs.evolve(
            self.account,
            path=self.directory / "conf.d" / f"b{number}.json",
            project_id=f"brand{number}",
            client_email=f"push@brand{number}.example",
            private_key_id=key,
        )
        self.google.trust(account)
        document = json.loads(self.account.path.read_bytes())
        for name in ("project_id", "client_email", "private_key_id"):
            document[name] = getattr(account, name)
        account.path.write_text(json.dumps(document))
        (self.directory / "conf.d" / f"b{number}.ini").write_text(
            f"[app:com.example.b{number}:apns]\n"
            f"[app:com.example.b{number}:android]\nservice_account = b{number}.json\n"
        )

    async def metrics(self, daemon: DaemonProcess) -> str:
        """A scrape."""
        return (await self.get(daemon.url("/metrics", "metrics"))).text

    async def until_connected(self, daemon: DaemonProcess, brands: int) -> None:
        """Wait until so many brands have Apple's two connections and one of Google's."""
        pattern = r'middlewared_provider_connections\{app="([^"]+)",.*state="ready"\} [34]\.0'
        while len(re.findall(pattern, await self.metrics(daemon))) < brands:
            await deferLater(clock, 0.2)

    async def test_a_fleet(self) -> None:
        """Connections by credential, a reload that names what has changed, and bounded memory."""
        daemon = await self.start()
        await self.until_connected(daemon, BRANDS)
        self.assertEqual(len(self.apple.connections), 2)
        connected = set(self.apple.connections)
        self.write_brand(3, key="second")
        (self.directory / "conf.d" / "b5.ini").unlink()
        daemon.signal(signal.SIGHUP)
        await self.has_logged(daemon, "configuration reloaded")
        (line,) = re.findall("configuration reloaded: (.*)", daemon.log)
        self.assertIn("com.example.b3 android key second of push@brand3.example; ", line)
        self.assertIn("com.example.b5 apns gone; com.example.b5 android gone", line)
        self.assertEqual(line.count(";"), 2)
        self.assertEqual(set(self.apple.connections), connected)
        await self.until_connected(daemon, BRANDS - 1)
        self.assertIn("middlewared_config_reload_success 1.0", await self.metrics(daemon))
        self.assertLess(memory_mb(daemon), MOST_MB)
        (self.directory / "conf.d" / "b4.ini").write_text("[app:com.example.b4:apns]\nfoo = 1\n")
        daemon.signal(signal.SIGHUP)
        await self.has_logged(daemon, "b4.ini: [app:com.example.b4:apns] foo: unknown key")
        while "middlewared_config_reload_success 0.0" not in await self.metrics(daemon):
            await deferLater(clock, 0.05)


def memory_mb(daemon: DaemonProcess) -> float:
    """What it has in memory."""
    (rss_kb,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())
    return int(rss_kb) / 1024
