"""The second Google, on Node's HTTP/2, answers like the simulated one; it is a peer for others."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred, gatherResults

from middlewared.simulator.google_oauth import GRANT_TYPE, SCOPE
from tests.h2peer import Answer, H2Peer
from tests.node_peers import NodePeer, start_peer
from tests.test_simulator_google_http2 import GoogleHttp2TestCase, credentials


def token(kind: str, number: int = 0) -> str:
    """A push token whose first digits choose the behaviour of the peer."""
    return f"{kind}{number:030x}:APA91"


class NodeGoogleTests(GoogleHttp2TestCase):
    """The peer allows three streams and windows of 64 bytes."""

    async def start(self, *more: str) -> H2Peer:
        """Start the peer, connect, and get an access token."""
        public = Path(credentials().folder.name) / "account-public.pem"
        public.write_text(credentials().account.public_key_pem)
        self.google: NodePeer = await start_peer(
            self, "google.js", credentials().server, public, *more
        )
        self.port = self.google.port
        self.access_token = ""
        peer = await self.connect(ready=not more)
        if not more:
            answer = await self.ask_token(peer)
            self.access_token = json.loads(answer.body)["access_token"]
        return peer

    def ask_token(self, peer: H2Peer, **changed: Any) -> Deferred[Answer]:
        account = json.loads(credentials().account.path.read_text())
        now = int(time.time())
        claims = {
            "iss": account["client_email"],
            "scope": SCOPE,
            "aud": f"https://localhost:{self.port}/token",
            "iat": now,
            "exp": now + 3600,
            **changed,
        }
        assertion = jwt.encode(claims, account["private_key"], algorithm="RS256")
        fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", peer.authority),
            (":path", "/token"),
            ("content-type", "application/x-www-form-urlencoded"),
        ]
        form = urlencode({"grant_type": GRANT_TYPE, "assertion": assertion})
        return peer.request(fields, form.encode())

    async def test_accepts_over_both_protocols(self) -> None:
        """ALPN chooses; a push gets its name, and its line."""
        peer = await self.start()
        for answer in (
            await self.send(peer, token=token("00")),
            await self.send_http1(token=token("00", 1)),
        ):
            self.assertEqual(answer.status, 200)
            self.assertTrue(json.loads(answer.body)["name"].startswith("projects/simulated"))
        self.assertEqual(await self.google.lines.get(), f"2.0 {token('00')}")
        self.assertEqual(await self.google.lines.get(), f"1.1 {token('00', 1)}")
        self.assertEqual(peer.limits, [3])

    async def test_speaks_http1_only_when_asked(self) -> None:
        """A client that offers both gets HTTP/1.1."""
        peer = await self.start("http/1.1")
        self.assertEqual(await peer.agreed, b"http/1.1")
        self.assertEqual((await self.send_http1()).status, 401)

    async def test_validates_tokens(self) -> None:
        """A wrong assertion is refused, and a push without an access token."""
        peer = await self.start()
        refused = await self.ask_token(peer, exp=int(time.time()) + 7200)
        self.assertEqual(json.loads(refused.body)["error"], "invalid_grant")
        self.access_token = "other"
        self.assertEqual((await self.send(peer)).status, 401)

    async def test_errors(self) -> None:
        """Errors are FCM's, by the token's first digits; the last comes with trailers."""
        peer = await self.start()
        for kind, status, code in (
            ("01", 404, "UNREGISTERED"),
            ("02", 503, "UNAVAILABLE"),
            ("03", 429, "QUOTA_EXCEEDED"),
            ("04", 403, "SENDER_ID_MISMATCH"),
            ("14", 404, "UNREGISTERED"),
        ):
            answer = await self.send(peer, token=token(kind))
            error = json.loads(answer.body)["error"]
            self.assertEqual((answer.status, error["details"][0]["errorCode"]), (status, code))
        self.assertEqual((answer.interim, answer.trailers), ([103], {"x-trailer": "1"}))
        self.assertEqual((await self.send(peer, token=token("05"))).status, 502)

    async def test_faults_of_streams(self) -> None:
        """Streams are reset, refused once, or left waiting; the connection lives on."""
        peer = await self.start()
        stalled = self.send(peer, token=token("17"))
        reset = await self.send(peer, token=token("10"))
        self.assertEqual(reset.reset, ErrorCodes.INTERNAL_ERROR)
        refused = await self.send(peer, token=token("15"))
        self.assertEqual(refused.reset, ErrorCodes.REFUSED_STREAM)
        self.assertEqual((await self.send(peer, token=token("15"))).status, 200)
        self.assertFalse(stalled.called)

    async def test_faults_of_connections(self) -> None:
        """GOAWAY leaves a push out, or covers it; a connection breaks; limits shrink."""
        peer = await self.start()
        left_out = self.send(peer, token=token("12"))
        await peer.goaway_seen
        self.assertFalse(left_out.called)
        other = await self.connect()
        self.assertEqual((await self.send(other, token=token("12"))).status, 200)
        self.assertEqual((await self.send(other, token=token("13"))).status, 200)
        self.assertEqual((await self.send(other, token=token("16"))).status, 200)
        await other.lost
        self.assertIsNotNone(other.goaway)
        broken = await self.connect()
        self.send(broken, token=token("11"))
        await broken.lost

    async def test_too_many_pings(self) -> None:
        """The third PING without a request between ends the connection."""
        peer = await self.start()
        await peer.ping()
        await peer.ping()
        self.assertEqual((await self.send(peer, token=token("00"))).status, 200)
        await gatherResults([peer.ping(), peer.ping()])
        peer.ping()
        await peer.lost
        assert peer.goaway is not None
        self.assertEqual(peer.goaway.error_code, ErrorCodes.ENHANCE_YOUR_CALM)
        self.assertEqual(peer.goaway.additional_data, b"too_many_pings")
        self.assertEqual(self.google.errors, b"")
