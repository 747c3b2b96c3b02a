"""A real daemon and clients that pipeline without end and read nothing, on each listener."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from twisted.internet.threads import deferToThread

from middlewared.simulator.certificates import Authority
from middlewared.simulator.daemon_process import DaemonProcess
from tests.daemons import DaemonTestCase
from tests.test_flow_abuse import resident_megabytes

REQUESTS = 200_000
MOST_MEGABYTES = 20
CONNECTIONS = 1000
FACES = """
[http]
listen = tcp:0:interface=127.0.0.1
pbx_listen = tcp:0:interface=127.0.0.1
[metrics]
listen = tcp:0:interface=127.0.0.1
"""


def flood(connection: socket.socket, request: bytes) -> int:
    """Send requests until the daemon takes no more; gives the bytes it took."""
    connection.settimeout(1)
    left = memoryview(request * REQUESTS)
    taken = 0
    while taken < len(left):
        try:
            taken += connection.send(left[taken : taken + 65536])
        except (TimeoutError, ssl.SSLError):
            break
    return taken


def connect_all(address: tuple[str, int]) -> int:
    """Open many connections before one is used; gives the number that were answered."""
    connections = [socket.create_connection(address, timeout=30) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.sendall(b"GET /health/ HTTP/1.1\r\nConnection: close\r\n\r\n")
    answered = 0
    for connection in connections:
        with connection:
            answered += connection.recv(100).startswith(b"HTTP/1.1 200")
    return answered


class PipeliningTests(DaemonTestCase):
    def address(self, daemon: DaemonProcess, listener: str) -> tuple[str, int]:
        url = urlsplit(daemon.url("/", listener))
        return str(url.hostname), int(url.port or 0)

    async def assert_bounded(
        self, daemon: DaemonProcess, connection: socket.socket, path: bytes, other: str
    ) -> None:
        """Flood ``connection``; meanwhile ``other`` is served, and memory stays."""
        self.addCleanup(connection.close)
        before = resident_megabytes(daemon.pid, "VmRSS")
        request = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path
        flooding = deferToThread(flood, connection, request)
        self.assertEqual((await self.get(other)).status, 200)
        taken = await flooding
        self.assertEqual((await self.get(other)).status, 200)
        self.assertLess(taken, len(request) * REQUESTS)
        grown = resident_megabytes(daemon.pid, "VmHWM") - before
        self.assertLess(grown, MOST_MEGABYTES)

    async def test_unread_answers_cost_no_memory_on_any_listener(self) -> None:
        """The API, the PBX's listener and the metrics; others are served meanwhile."""
        daemon = await self.start_daemon(FACES)
        for listener, path in (
            ("http", "/api/openapi.json"),
            ("pbx", "/health/"),
            ("metrics", "/metrics"),
        ):
            connection = socket.create_connection(self.address(daemon, listener))
            other = daemon.url(path, listener)
            await self.assert_bounded(daemon, connection, path.encode(), other)

    async def test_unread_answers_cost_no_memory_behind_tls(self) -> None:
        """An ssl: endpoint; a plain one is served meanwhile."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        authority = Authority(folder=folder)
        pem = folder / "listener.pem"
        pem.write_bytes(authority.server(hosts=["localhost"]).read_bytes())
        tls = f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1"
        daemon = await self.start_daemon(
            FACES.replace("listen = tcp:0:interface=127.0.0.1", f"listen = {tls}", 1)
        )
        context = ssl.create_default_context(cafile=str(authority.certificate))
        plain = socket.create_connection(self.address(daemon, "http"))
        connection = await deferToThread(context.wrap_socket, plain, server_hostname="localhost")
        other = daemon.url("/health/", "pbx")
        await self.assert_bounded(daemon, connection, b"/api/openapi.json", other)

    async def test_many_connections_at_once_are_all_answered(self) -> None:
        """A thousand that are opened before one of them asks for anything."""
        daemon = await self.start_daemon(FACES)
        answered = await deferToThread(connect_all, self.address(daemon, "http"))
        self.assertEqual(answered, CONNECTIONS)
