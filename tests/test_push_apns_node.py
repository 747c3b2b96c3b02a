"""The APNs provider against a peer of another make: Node's HTTP/2, which is nghttp2."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from middlewared.push.interface import Accepted, ConfigFault, PushResult, Temporary, TokenDead
from tests.apns import AppleTestCase, call_push, reactor
from tests.node_peers import start_peer


def token(kind: str, number: int = 0) -> str:
    """A device token whose first digits choose the behaviour of the peer."""
    return f"{kind}{number:062x}"


class NodePeerTests(AppleTestCase):
    """One connection; the peer allows three streams and windows of 64 bytes."""

    connections = 1

    async def test_pushes_of_all_kinds(self) -> None:
        """Each gets its answer; faults of one push or connection lose no other."""
        pem = self.authority.server(name="node")
        apple = await start_peer(self, "apple.js", pem, self.authority.certificate)
        provider = self.provide(self.settings(apple.url))

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
