"""Starting the daemon: what an operator sees when something is wrong."""

from __future__ import annotations

import json
import resource
import signal
import socket
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from middlewared.simulator.certificates import EXPIRED, Authority
from middlewared.simulator.daemon_process import DaemonFailed, DaemonProcess
from tests.daemons import PORTS, DaemonTestCase

reactor: Any = installed_reactor


class Silent(Protocol):
    """A database that accepts connections and never answers."""

    factory: Any

    def dataReceived(self, data: bytes) -> None:
        self.factory.spoken_to()


class StartTests(DaemonTestCase):
    """Each fault is a plain line and exit code 1."""

    spawner = reactor  # a start as it is, imports and all

    async def test_defaults_are_a_working_daemon(self) -> None:
        """An empty configuration but for the ports gives a healthy daemon."""
        daemon = await self.start_daemon()
        health = await self.get(daemon.url("/health/"))
        state = json.loads(health.text)
        self.assertGreaterEqual(state.pop("lag_ms"), 0)
        self.assertEqual(
            (health.status, state),
            (200, {"status": "ok", "database": "up", "redis": "off", "waiting": 0}),
        )
        self.assertEqual(await daemon.stop(), 0)

    async def test_all_allowed_files_may_be_open(self) -> None:
        """Whatever its soft limit is at first: containers begin with one for old programs."""
        files = resource.RLIMIT_NOFILE
        soft, hard = resource.getrlimit(files)
        self.addCleanup(resource.setrlimit, files, (soft, hard))
        resource.setrlimit(files, (soft // 2, hard))
        daemon = await self.start_daemon()
        self.assertEqual(resource.prlimit(daemon.pid, files), (hard, hard))

    async def test_every_problem_is_listed(self) -> None:
        """Wrong keys, sections and files: all of them, each with section and key."""
        code, output = await self.refused_start(
            "[http]\nlisten = tcp:0\nmax_body_byte = 1\n"
            "[cals]\nmax_waiting = 3\n"
            "[app:com.example:apns]\ncertificate = missing.pem\nconnections = 0\n"
            "[log]\nfile = .\nmetrics_file = nowhere/reports.json\n"
            "[database]\nurl = sqlite:nowhere/devices.sqlite3\n"
            "[redis]\ntls = yes\nca_file = missing.pem\ncertificate = middlewared.ini\n"
        )
        self.assertEqual(code, 1)
        for line in (
            "[http] max_body_byte: unknown key",
            "[cals]: unknown section",
            "[app:com.example:apns] connections:",
            "[app:com.example:apns] certificate:",
            "[log] file: is a directory",
            "[log] metrics_file: no such directory",
            "[database] url: no such directory",
            "[redis] ca_file: cannot read",
            "[redis] certificate:",
        ):
            self.assertIn(f"middlewared.ini: {line}", output)
        self.assertNotIn("Traceback", output)

    async def test_busy_port(self) -> None:
        """A port in use is named by its key; there is nothing to drain."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            busy = PORTS.replace("tcp:0", f"tcp:{port}", 1)
            code, output = await self.refused_start(f"{busy}[calls]\ndrain_notice_ms = 50000\n")
        self.assertEqual(code, 1)
        self.assertIn(f"[http] listen: cannot listen at tcp:{port}:interface=127.0.0.1", output)
        self.assertIn("Address already in use", output)
        self.assertNotIn("Traceback", output)

    async def test_end_before_ready(self) -> None:
        """SIGTERM while the database is still waited for: a clean end, exit code 0."""
        silent: Any = Factory.forProtocol(Silent)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(silent)
        self.addCleanup(port.stopListening)
        url = f"postgresql://someone@127.0.0.1:{port.getHost().port}/nothing"
        daemon = DaemonProcess(
            reactor=reactor, config=self.write_config(f"{PORTS}[database]\nurl = {url}\n")
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        silent.spoken_to = lambda: daemon.signal(signal.SIGTERM)
        with self.assertRaises(DaemonFailed):
            await daemon.start()
        self.assertEqual(await daemon.ended(), 0)
        self.assertIn("middlewared stopped", daemon.log)
        self.assertNotIn("Traceback", daemon.log)

    async def test_expired_certificate(self) -> None:
        """An expired certificate stops the start with the time when it expired."""
        authority = Authority(folder=self.directory)
        path = authority.apns_client(validity=EXPIRED)
        code, output = await self.refused_start(
            f"{PORTS}[app:com.example:apns]\ncertificate = {path.name}\n"
        )
        self.assertEqual(code, 1)
        self.assertIn("[app:com.example:apns] certificate:", output)
        self.assertIn("expired", output)

    async def test_wrong_key_file(self) -> None:
        """A key file that holds something else is refused."""
        (self.directory / "AuthKey.p8").write_text("not a key")
        code, output = await self.refused_start(
            f"{PORTS}[app:com.example:apns]\n"
            "key_file = AuthKey.p8\nkey_id = ABCDEFGHIJ\nteam_id = KLMNOPQRST\n"
        )
        self.assertEqual(code, 1)
        self.assertIn("[app:com.example:apns] key_file:", output)
        self.assertNotIn("Traceback", output)

    async def test_unusable_database(self) -> None:
        """A database in a directory that does not exist stops the start."""
        code, output = await self.refused_start(
            f"{PORTS}[database]\nurl = sqlite:nowhere/devices.sqlite3\n"
        )
        self.assertEqual(code, 1)
        self.assertIn("[database] url:", output)
        self.assertNotIn("Traceback", output)
