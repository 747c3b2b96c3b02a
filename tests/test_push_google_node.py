"""The FCM provider against a peer of another make: Node's HTTP/2, which is nghttp2."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred, gatherResults

from middlewared.push.google.service_account import load_service_account
from middlewared.push.interface import (
    Accepted,
    Push,
    PushProvider,
    PushResult,
    Temporary,
    TokenDead,
    TokenSuspect,
)
from tests.google import GoogleTestCase, call_push, service_account_file
from tests.node_peers import NodePeer, start_peer


def token(kind: str, number: int = 0) -> str:
    """A push token whose first digits choose the behaviour of the peer."""
    return f"{kind}installation{number}:APA91"


class NodePeerTests(GoogleTestCase):
    """The peer allows three streams and windows of 64 bytes."""

    attempt_timeout_s = 2.0

    def new_provider(self) -> PushProvider:
        """Not used: the peer comes later."""
        return self.new_fcm()

    async def peer(self, *options: str) -> NodePeer:
        """Start the peer, and a provider of it."""
        path = self.folder / "node.json"
        path.write_bytes(service_account_file())
        public = self.folder / "account.pem"
        key = load_service_account(self.folder / "account.json").private_key.public_key()
        public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        pem = self.authority.server(name="node")
        peer = await start_peer(self, "google.js", pem, public, *options)
        self.provider = self.new_fcm(url=peer.url, token_uri=f"{peer.url}/token")
        return peer

    def kind(self, kind: str, number: int = 0) -> Push:
        return call_push(wait_s=20.0, token=token(kind, number))

    async def test_pushes_of_all_kinds(self) -> None:
        """Each gets its answer; faults of one push or connection lose no other."""
        peer = await self.peer()
        for kind, result in (
            ("00", Accepted()),
            ("01", TokenDead("UNREGISTERED")),
            ("02", Temporary("UNAVAILABLE", 1.0)),
            ("03", Temporary("QUOTA_EXCEEDED")),
            ("04", TokenSuspect("SENDER_ID_MISMATCH")),
            ("05", Temporary("http-502")),
            ("14", TokenDead("UNREGISTERED")),
            ("00", Accepted()),
        ):
            self.assertEqual(await self.send(self.kind(kind)), result, kind)
        for kind, reason in (
            ("10", "RST_STREAM INTERNAL_ERROR"),
            ("11", "connection lost"),
            ("17", "timeout"),
        ):
            self.assert_uncertain(await self.send(self.kind(kind)), reason)
        for _ in range(2):
            self.assertEqual(await peer.lines.get(), f"2.0 {token('00')}")
        # Limits that shrink, refused streams and GOAWAYs in the middle of a burst.
        burst = (["00"] * 20 + ["13"] + ["15"] * 5 + ["00"] * 20 + ["12", "16"]) * 2
        sending = [self.sending(self.kind(kind, n)) for n, kind in enumerate(burst)]
        self.assertEqual(await gatherResults(sending), [Accepted()] * len(burst))
        accepted = [await peer.lines.get() for _ in burst]
        self.assertEqual(
            sorted(accepted), sorted(f"2.0 {token(kind, n)}" for n, kind in enumerate(burst))
        )
        self.assertEqual(peer.errors, b"")

    async def test_http1_only(self) -> None:
        """Its pushes go over HTTP/1.1."""
        peer = await self.peer("http/1.1")
        results: list[PushResult] = await gatherResults(
            [Deferred.fromCoroutine(self.send(self.kind("00", n))) for n in range(20)]
        )
        self.assertEqual(results, [Accepted()] * 20)
        self.assertEqual(
            sorted([await peer.lines.get() for _ in results]),
            sorted(f"1.1 {token('00', n)}" for n in range(20)),
        )
