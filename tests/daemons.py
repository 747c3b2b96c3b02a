"""Real daemons for tests: a process, its configuration, and a client to talk to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import attrs
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent

from middlewared.simulator.daemon_process import DaemonFailed, DaemonProcess
from tests.forking import ForkingReactor
from tests.waiting import until

PORTS = """
[http]
listen = tcp:0:interface=127.0.0.1
[metrics]
listen = tcp:0:interface=127.0.0.1
"""


@attrs.frozen
class Answered:
    """An HTTP answer, read to its end."""

    status: int
    headers: Any
    text: str

    def header(self, name: str) -> str:
        """A header's only value."""
        (value,) = self.headers.getRawHeaders(name)
        return str(value)


class DaemonTestCase(TestCase):
    """
    Starts daemons, and ends those that are left.

    :cvar spawner: the reactor that starts processes.
    """

    spawner: Any = ForkingReactor(reactor)

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.directory = self.directory.absolute()
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        self.client = treq.client.HTTPClient(cast(IAgent, Agent(reactor, pool=self.pool)))

    def write_config(self, text: str, name: str = "middlewared.ini") -> Path:
        """Write an ini file into the test's directory."""
        path = self.directory / name
        path.write_text(text)
        return path

    async def start_daemon(self, text: str = PORTS, name: str = "middlewared.ini") -> DaemonProcess:
        """A daemon with the configuration ``text``, ready for calls."""
        daemon = DaemonProcess(reactor=self.spawner, config=self.write_config(text, name))
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        await daemon.start()
        return daemon

    async def has_logged(self, daemon: DaemonProcess, text: str, times: int = 1) -> None:
        """Wait until a daemon's log has ``text`` so many times."""
        await until(lambda: daemon.log.count(text) >= times)

    async def refused_start(self, text: str) -> tuple[int, str]:
        """The exit code and output of a daemon that does not start."""
        daemon = DaemonProcess(reactor=self.spawner, config=self.write_config(text))
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        try:
            await daemon.start()
        except DaemonFailed as failed:
            return await daemon.ended(), str(failed)
        self.fail("the daemon started")

    async def post(self, url: str, **fields: str) -> Answered:
        """POST a form."""
        return await self._answered(self.client.post(url, data=fields))

    async def get(self, url: str) -> Answered:
        """GET."""
        return await self._answered(self.client.get(url))

    async def _answered(self, request: Deferred[Any]) -> Answered:
        response = await request
        text = await response.text()
        return Answered(response.code, response.headers, text)
