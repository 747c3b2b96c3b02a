"""The listening ports: how many connections may wait to be accepted, or be open."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from middlewared.service.ports import BACKLOG, MOST_ACCEPTS, bound_accepts, with_backlog
from middlewared.simulator.certificates import Authority
from tests.daemons import PORTS, DaemonTestCase

reactor: Any = _reactor


class BacklogTests(SynchronousTestCase):
    def backlog(self, description: str) -> int:
        """What the reactor is asked for."""
        reactor = MemoryReactor()
        endpoint = serverFromString(reactor, with_backlog(description))
        self.successResultOf(endpoint.listen(None))
        servers = reactor.tcpServers or reactor.unixServers
        return int(servers[0][2])

    def test_every_listener_lets_thousands_wait(self) -> None:
        """TCP and unix sockets, and those behind the PROXY protocol."""
        for description in (
            "tcp:0",
            "tcp:0:127.0.0.1",
            "tcp:0:interface=127.0.0.1",
            "tcp6:0",
            "tcp6:0:interface=\\:\\:1",
            "unix:/a/b",
            "unix:/a/b:mode=660",
        ):
            self.assertEqual(self.backlog(description), BACKLOG, description)
        self.assertEqual(with_backlog("haproxy:tcp:0"), f"haproxy:tcp:0:backlog={BACKLOG}")
        self.assertEqual(with_backlog("ssl:0:a:b"), f"ssl:0:a:b:backlog={BACKLOG}")

    def test_a_backlog_that_is_configured_is_kept(self) -> None:
        """By name and by position; sockets of systemd have their own."""
        for description in ("tcp:0:backlog=7", "tcp:0:127.0.0.1:7", "tcp6:0:7", "unix:/a:660:7"):
            self.assertEqual(self.backlog(description), 7, description)
        self.assertEqual(with_backlog("systemd:domain=INET:index=0"), "systemd:domain=INET:index=0")


class AcceptTests(TestCase):
    async def test_accepts_are_bounded_a_turn(self) -> None:
        """However many connections wait; those left over are accepted in later turns."""
        accepted: list[int] = []
        whole: Deferred[None] = Deferred()
        count = 3 * MOST_ACCEPTS

        def connected(_: object) -> Protocol:
            if not accepted:
                reactor.callLater(0, turns.append, None)
            accepted.append(len(turns))
            if len(accepted) == count:
                whole.callback(None)
            return Protocol()

        turns: list[None] = []
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = connected  # type: ignore[method-assign, assignment]
        port = reactor.listenTCP(0, factory, backlog=count, interface="127.0.0.1")
        port.numberAccepts = 10 * count  # as after a flood
        bound_accepts(port)
        address = ("127.0.0.1", port.getHost().port)
        clients = [socket.create_connection(address, timeout=20) for _ in range(count)]
        await whole
        self.assertEqual(accepted.count(0), MOST_ACCEPTS)
        for client in clients:
            client.close()
        await port.stopListening()


OK = b"HTTP/1.1 200 OK"


class Connection:
    """One client's connection, which blocks."""

    def __init__(self, port: int, context: ssl.SSLContext | None, first: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if context is not None:
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._first = first

    def ask(self) -> bytes:
        """The first bytes of an answer; none when the connection is closed instead."""
        self._socket.sendall(self._first + b"GET /health/ HTTP/1.1\r\nHost: x\r\n\r\n")
        self._first = b""
        return self._socket.recv(65_536)[: len(OK)]

    def close(self) -> None:
        self._socket.close()


class MostConnectionsTests(DaemonTestCase):
    """``max_connections = 1``, over each kind of transport."""

    async def serve(self, endpoint: str) -> None:
        """A daemon that listens there, and how to connect to it."""
        listening = PORTS.replace("tcp:0:interface=127.0.0.1", endpoint, 1)
        text = listening.replace("[metrics]", "max_connections = 1\n[metrics]")
        self.daemon = await self.start_daemon(text)
        self.port = urlsplit(self.daemon.url("/")).port or 0

    def connect_and_ask(
        self, context: ssl.SSLContext | None = None, first: bytes = b""
    ) -> list[bytes]:
        """What is answered to one, a second beside it, the first again, and one after it."""
        one = Connection(self.port, context, first)
        answers = [one.ask(), self.ask_once(context, first), one.ask()]
        one.close()
        later = (self.ask_once(context, first) for _ in range(10_000))
        # Nothing is answered until the daemon has noticed that there is room again.
        return [*answers, next(filter(None, later), b"")]

    def ask_once(self, context: ssl.SSLContext | None, first: bytes) -> bytes:
        try:
            other = Connection(self.port, context, first)
        except OSError:  # ssl.SSLError is one too
            return b""
        try:
            return other.ask()
        except OSError:
            return b""
        finally:
            other.close()

    async def assert_one_has_room(
        self, context: ssl.SSLContext | None = None, first: bytes = b""
    ) -> None:
        answers = await deferToThread(self.connect_and_ask, context, first)
        self.assertEqual(answers, [OK, b"", OK, OK])
        self.assertEqual(await self.daemon.stop(), 0)
        self.assertNotIn("Traceback", self.daemon.log)

    async def test_one_too_many_is_closed(self) -> None:
        """Plain TCP."""
        await self.serve("tcp:0:interface=127.0.0.1")
        await self.assert_one_has_room()

    async def test_one_too_many_is_closed_behind_a_proxy(self) -> None:
        """``haproxy:``."""
        await self.serve("haproxy:tcp:0:interface=127.0.0.1")
        await self.assert_one_has_room(first=b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n")

    async def test_one_too_many_is_closed_over_tls(self) -> None:
        """``ssl:``; nothing breaks, and the others go on."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        authority = Authority(folder=folder)
        pem = authority.server()
        await self.serve(f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1")
        await self.assert_one_has_room(ssl.create_default_context(cafile=authority.certificate))
