"""The listening ports: how many connections may wait to be accepted."""

from __future__ import annotations

from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from middlewared.service.ports import BACKLOG, with_backlog


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
        """By name and by place; sockets of systemd have their own."""
        for description in ("tcp:0:backlog=7", "tcp:0:127.0.0.1:7", "tcp6:0:7", "unix:/a:660:7"):
            self.assertEqual(self.backlog(description), 7, description)
        self.assertEqual(with_backlog("systemd:domain=INET:index=0"), "systemd:domain=INET:index=0")
