"""The simulated Apple enforces Apple's rules and causes the faults ordered, on the wire."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import jwt
from h2.errors import ErrorCodes
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from middlewared.simulator.apple.faults import (
    STATUS_OF_REASON,
    Behaviour,
    ExtraHeaders,
    GoAway,
    Greeting,
    Head,
    Interim,
    Padding,
    RawFrames,
    ResetStream,
    StreamLimit,
    Trailers,
    rejection,
)
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import (
    EXPIRED,
    NOT_YET_VALID,
    Authority,
    ProviderKey,
    write_provider_key,
)
from middlewared.simulator.record import ReceivedPush
from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall
from tests.h2peer import PAYLOAD, TOKEN, H2Peer, connect

_credentials: Credentials | None = None


class Credentials:
    """Made once for all tests: a folder, an authority, and what it issued."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        self.authority = Authority(folder=folder)
        self.server = self.authority.server()
        self.client = self.authority.apns_client()
        self.stranger = Authority(folder=folder, name="other").apns_client(name="stranger")
        self.expired = self.authority.apns_client(name="expired", validity=EXPIRED)
        self.early = self.authority.apns_client(name="early", validity=NOT_YET_VALID)
        self.key = write_provider_key(folder)


def credentials() -> Credentials:
    global _credentials
    if _credentials is None:
        _credentials = Credentials()
    return _credentials


class AppleTestCase(TestCase):
    """A running server, and plain HTTP/2 clients for it."""

    def setUp(self) -> None:
        self.credentials = credentials()

    async def serve(self, **options: Any) -> AppleServer:
        server = AppleServer(
            reactor=reactor,
            certificate=self.credentials.server,
            client_authority=self.credentials.authority.certificate,
            provider_keys=[self.credentials.key],
            **options,
        )
        self.port = await server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        return server

    async def connect(self, *, certificate: bool | Path = True, ready: bool = True) -> H2Peer:
        if certificate is True:
            certificate = self.credentials.client
        peer = await connect(
            reactor,
            self.port,
            authority=self.credentials.authority.certificate,
            certificate=certificate or None,
        )
        self.addCleanup(self.disconnect, peer)
        if ready:
            await peer.ready
        return peer

    def disconnect(self, peer: H2Peer) -> Deferred[Any]:
        if not peer.lost.called:
            peer.abort()
        return peer.lost

    def provider_token(self, key: ProviderKey | None = None, **claims: object) -> str:
        key = key or self.credentials.key
        content = {"iss": key.team_id, "iat": int(time.time()), **claims}
        headers = {"kid": key.key_id}
        secret = key.path.read_text()
        return "bearer " + jwt.encode(content, secret, algorithm="ES256", headers=headers)


class RuleTests(AppleTestCase):
    """A good push is accepted; each broken rule gets Apple's reason."""

    async def refusal(self, **push: Any) -> str:
        peer = await self.connect()
        answer = await peer.push(**push)
        self.assertGreaterEqual(answer.status, 400)
        return answer.reason

    async def test_accepts_echoes_and_records(self) -> None:
        """A good push is answered 200 with its own apns-id, recorded, and reported at once."""
        reported: list[ReceivedPush] = []
        server = await self.serve(listener=reported.append)
        peer = await self.connect()
        apns_id = "01234567-89ab-cdef-0123-456789abcdef"
        answer = await peer.push(apns_id=apns_id)
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["apns-id"], apns_id)
        (push,) = server.record.delivered
        self.assertEqual(reported, [push])
        self.assertEqual((push.token, push.payload, push.connection), (TOKEN, PAYLOAD, 1))
        self.assertEqual(push.environment, "production")

    async def test_target(self) -> None:
        """Method, path, authority and device token are validated."""
        await self.serve()
        self.assertEqual(await self.refusal(method="PUT"), "MethodNotAllowed")
        self.assertEqual(await self.refusal(path=f"/3/devices/{TOKEN}"), "BadPath")
        self.assertEqual(await self.refusal(path="/3/device/"), "MissingDeviceToken")
        self.assertEqual(await self.refusal(token="not-hex"), "BadDeviceToken")
        self.assertEqual(await self.refusal(authority="example.org"), "MisdirectedRequest")

    async def test_headers(self) -> None:
        """Every apns header is validated, and none may come twice."""
        await self.serve()
        voip_as_alert = {"apns_push_type": "alert"}
        self.assertEqual(await self.refusal(apns_topic="org.example"), "TopicDisallowed")
        self.assertEqual(await self.refusal(**voip_as_alert), "InvalidPushType")
        self.assertEqual(await self.refusal(without="apns-push-type"), "InvalidPushType")
        self.assertEqual(await self.refusal(apns_priority="9"), "BadPriority")
        self.assertEqual(await self.refusal(apns_expiration="soon"), "BadExpirationDate")
        in_milliseconds = str(int(time.time() * 1000))
        self.assertEqual(await self.refusal(apns_expiration=in_milliseconds), "BadExpirationDate")
        self.assertEqual(await self.refusal(apns_id="A" * 32), "BadMessageId")
        self.assertEqual(await self.refusal(apns_collapse_id="x" * 65), "BadCollapseId")
        twice = [("apns-priority", "10")]
        self.assertEqual(await self.refusal(more=twice), "DuplicateHeaders")

    async def test_payload(self) -> None:
        """The payload must be there, a JSON object, and at most 5120 bytes for VoIP."""
        server = await self.serve()
        self.assertEqual(await self.refusal(body=b""), "PayloadEmpty")
        self.assertEqual(await self.refusal(body=b"{"), "PayloadMalformed")
        self.assertEqual(
            await self.refusal(body=b'{"x": "' + b"y" * 5112 + b'"}'), "PayloadTooLarge"
        )
        self.assertEqual(list(server.record.received), [])
        peer = await self.connect()
        largest = await peer.push(body=b'{"x": "' + b"y" * 5111 + b'"}')
        self.assertEqual(largest.status, 200)

    async def test_tokens_of_another_environment(self) -> None:
        """A server that knows its tokens refuses all others as BadDeviceToken."""
        await self.serve(environment="sandbox", tokens={"cd" * 32})
        self.assertEqual(await self.refusal(), "BadDeviceToken")
        peer = await self.connect()
        self.assertEqual((await peer.push(token="cd" * 32)).status, 200)


class CredentialTests(AppleTestCase):
    """Certificates are validated in the handshake, provider tokens at each push."""

    async def refused_handshake(self, certificate: Path) -> str:
        peer = await self.connect(certificate=certificate, ready=False)
        return await peer.lost

    async def test_bad_certificates_end_the_handshake(self) -> None:
        """A certificate of another authority, or out of its time, gets a TLS alert."""
        server = await self.serve()
        self.assertIn("unknown ca", await self.refused_handshake(self.credentials.stranger))
        self.assertIn("expired", await self.refused_handshake(self.credentials.expired))
        self.assertIn("certificate", await self.refused_handshake(self.credentials.early))
        self.assertEqual(server.record.received_count, 0)

    async def test_certificates_can_be_refused_by_order(self) -> None:
        """A good certificate is refused while the behaviour demands it."""
        server = await self.serve(behaviour=Behaviour(refuse_certificate=True))
        self.assertIn("alert", await self.refused_handshake(self.credentials.client))
        server.behaviour = Behaviour()
        await self.connect()

    async def test_alpn_is_required(self) -> None:
        """A client that does not offer h2 is dropped."""
        server = await self.serve()
        peer = await connect(
            reactor,
            self.port,
            authority=self.credentials.authority.certificate,
            protocols=(b"http/1.1",),
        )
        await peer.lost
        self.assertEqual(server.record.violations[0], "no h2 in ALPN")

    async def reason(self, authorization: str | None) -> str:
        """The verdict on one provider token, on a connection of its own."""
        peer = await self.connect(certificate=False)
        token: Any = {} if authorization is None else {"authorization": authorization}
        answer = await peer.push(**token)
        return answer.reason if answer.body else ""

    async def test_provider_tokens(self) -> None:
        """Signature, key id, team, age and clock of a provider token are validated."""
        await self.serve()
        now = int(time.time())
        stranger = write_provider_key(Path(self.credentials.folder.name), key_id="OTHERKEY01")
        forged = ProviderKey(stranger.path, "SIMKEY0001", "SIMTEAM001", "")
        self.assertEqual(await self.reason(self.provider_token()), "")
        self.assertEqual(await self.reason(None), "MissingProviderToken")
        self.assertEqual(await self.reason("bearer x.y.z"), "InvalidProviderToken")
        for bad in (
            self.provider_token(stranger),
            self.provider_token(forged),
            self.provider_token(iss="OTHERTEAM1"),
            self.provider_token(iat=now + 600),
        ):
            self.assertEqual(await self.reason(bad), "InvalidProviderToken")
        old = self.provider_token(iat=now - 3700)
        self.assertEqual(await self.reason(old), "ExpiredProviderToken")

    async def test_provider_tokens_change_slowly(self) -> None:
        """With the update rule a second token comes too soon, and the first stays good."""
        await self.serve(update_interval_s=1200)
        first = self.provider_token(iat=int(time.time()) - 5)
        self.assertEqual(await self.reason(first), "")
        self.assertEqual(await self.reason(self.provider_token()), "TooManyProviderTokenUpdates")
        self.assertEqual(await self.reason(first), "")

    async def test_one_stream_until_a_token_was_good(self) -> None:
        """With provider tokens the stream limit is 1 until a push was accepted."""
        await self.serve()
        peer = await self.connect(certificate=False)
        await peer.push()
        self.assertEqual(peer.limits, [1])
        await peer.push(authorization=self.provider_token())
        await peer.ping()
        self.assertEqual(peer.limits, [1, 1000])


class FaultTests(AppleTestCase):
    """Every fault that can be ordered happens on the wire."""

    async def test_every_documented_rejection(self) -> None:
        """A scripted rejection has its status, reason, and what belongs to it."""
        server = await self.serve()
        peer = await self.connect()
        for reason, status in STATUS_OF_REASON.items():
            server.scripts.for_next(1, rejection(reason))
            answer = await peer.push()
            self.assertEqual((answer.status, answer.reason), (status, reason))
        gone = rejection("Unregistered", timestamp_ms=1_700_000_000_123)
        server.scripts.for_token(TOKEN, gone)
        self.assertIn(b"1700000000123", (await peer.push()).body)
        server.scripts.for_token(TOKEN, rejection("Shutdown", retry_after="7"))
        self.assertEqual((await peer.push()).headers["retry-after"], "7")
        self.assertEqual(server.record.delivered_count, 0)
        server.scripts.clear()
        self.assertEqual((await peer.push()).status, 200)

    async def test_steps_are_taken_in_order(self) -> None:
        """Interim answer, padding, trailers, many headers and a delay shape one answer."""
        server = await self.serve()
        filler = tuple((f"x-filler-{number}", "y" * 1000) for number in range(30))
        unknown = RawFrames(b"\x00\x00\x02\xee\x00\x00\x00\x00\x00hi")
        steps = (Interim(), unknown, Delay(0.01), Padding(), Trailers(), ExtraHeaders(filler))
        server.scripts.for_next(1, *steps, rejection("TooManyRequests"))
        peer = await self.connect()
        answer = await peer.push()
        self.assertEqual((answer.interim, answer.status), ([103], 429))
        self.assertEqual(answer.reason, "TooManyRequests")
        self.assertEqual(answer.trailers, {"x-trailer": "simulated"})
        self.assertEqual(answer.headers["x-filler-29"], "y" * 1000)

    async def test_delivery_ahead_of_the_answer(self) -> None:
        """A push can reach the phone though its stream is reset."""
        server = await self.serve()
        server.scripts.for_next(1, Deliver(), ResetStream(code=7))
        peer = await self.connect()
        answer = await peer.push()
        self.assertEqual(answer.reset, 7)
        self.assertEqual(server.record.delivered_count, 1)

    async def test_stall(self) -> None:
        """A stalled push is never answered; the connection lives on and answers PINGs."""
        server = await self.serve()
        server.scripts.for_next(1, Stall())
        peer = await self.connect()
        stalled = peer.push()
        await peer.push()
        await peer.ping()
        self.assertFalse(stalled.called)

    async def test_silence(self) -> None:
        """A silent connection answers nothing, not even a PING; another one works."""
        server = await self.serve()
        server.scripts.for_token("cd" * 32, Stall(acknowledge_pings=False))
        silent, other = await self.connect(), await self.connect()
        unanswered: list[Deferred[Any]] = [silent.push(token="cd" * 32), silent.ping()]
        await other.push()
        await other.push()
        self.assertFalse(any(each.called for each in unanswered))

    async def test_reset_connection(self) -> None:
        """A TCP reset ends the connection without a GOAWAY."""
        server = await self.serve()
        server.scripts.for_next(1, ResetConnection())
        peer = await self.connect()
        peer.push()
        await peer.lost
        self.assertIsNone(peer.goaway)

    async def test_a_head_without_its_end(self) -> None:
        """The status comes, the end of the stream does not: it is reset, or all is closed."""
        server = await self.serve()
        server.scripts.for_next(1, Head(200), ResetStream(2))
        server.scripts.for_next(1, Head(410), HangUp())
        peer = await self.connect()
        reset = await peer.push()
        self.assertEqual((reset.status, reset.reset), (200, 2))
        closed = peer.push()
        await peer.lost
        self.assertFalse(closed.called)
        self.assertEqual(server.record.delivered_count, 0)

    async def test_a_flood_of_resets(self) -> None:
        """The connection of a peer that resets too many streams is closed."""
        server = await self.serve(behaviour=Behaviour(most_resets=3))
        server.scripts.for_all(Stall())
        peer = await self.connect()
        for stream_id in (1, 3, 5):
            self.assertIsNone(peer.goaway)
            peer.push()
            peer.h2.reset_stream(stream_id, 8)
            peer.flush()
        await peer.lost
        assert peer.goaway is not None
        self.assertEqual(peer.goaway.error_code, ErrorCodes.ENHANCE_YOUR_CALM)

    async def test_goaway_leaves_pushes_out(self) -> None:
        """GOAWAY answers what it counts as processed and forgets the rest, then closes."""
        server = await self.serve()
        server.scripts.for_next(1, Delay(0.02))
        server.scripts.for_next(1, GoAway(unprocessed=1, reason="Shutdown", close=True))
        peer = await self.connect()
        processed, left_out = peer.push(), peer.push()
        self.assertEqual((await processed).status, 200)
        await peer.lost
        assert peer.goaway is not None
        self.assertEqual(peer.goaway.last_stream_id, 1)
        self.assertEqual(peer.goaway.additional_data, b'{"reason": "Shutdown"}')
        self.assertFalse(left_out.called)
        self.assertEqual(server.record.delivered_count, 1)

    async def test_goaway_after_a_number_of_pushes(self) -> None:
        """A burst beyond the number finds its rest unprocessed, and a new connection works."""
        server = await self.serve(behaviour=Behaviour(goaway_after=5))
        peer = await self.connect()
        pushes = [peer.push() for _ in range(8)]
        await peer.lost
        self.assertEqual([each.called for each in pushes], [True] * 5 + [False] * 3)
        assert peer.goaway is not None
        self.assertEqual(peer.goaway.last_stream_id, 9)
        again = await self.connect()
        self.assertEqual((await again.push()).status, 200)
        self.assertEqual(server.record.received_count, 6)

    async def test_goaway_by_hand(self) -> None:
        """A test can send GOAWAY on a live connection and leave it open."""
        server = await self.serve()
        peer = await self.connect()
        await peer.push()
        (connection,) = server.connections
        connection.go_away(GoAway())
        await peer.goaway_seen
        self.assertFalse(peer.lost.called)

    async def test_stream_limit_changes(self) -> None:
        """The limit changes by script, and a peer that overruns it gets GOAWAY."""
        server = await self.serve()
        server.scripts.for_next(1, StreamLimit(2))
        server.scripts.for_token(TOKEN, Stall())
        peer = await self.connect()
        await peer.push()
        await peer.ping()
        self.assertEqual(peer.limits, [1000, 2])
        # A careless peer.
        peer.h2.remote_settings.max_concurrent_streams = 1000
        peer.h2.remote_settings.acknowledge()
        for _ in range(3):
            peer.push()
        await peer.lost
        self.assertIn("TooManyStreams", server.record.violations[0])

    async def test_limit_falls_after_a_rejection(self) -> None:
        """The limit can fall with a rejected push and rise with the next accepted one."""
        server = await self.serve(behaviour=Behaviour(limit_after_rejection=1))
        server.scripts.for_next(1, rejection("BadDeviceToken"))
        peer = await self.connect()
        await peer.push()
        await peer.push()
        await peer.ping()
        self.assertEqual(peer.limits, [1000, 1, 1000])

    async def test_small_windows(self) -> None:
        """A small stream window opens piece by piece; a hoarded connection window closes."""
        await self.serve(behaviour=Behaviour(initial_window=100, replenish=False))
        peer = await self.connect()
        self.assertEqual((await peer.push(body=b'{"x": "' + b"y" * 80 + b'"}')).status, 200)
        self.assertEqual(peer.h2.outbound_flow_control_window, 65_535 - 89)

    async def test_windows_of_the_peer(self) -> None:
        """An answer waits for the peer's window."""
        server = await self.serve()
        server.scripts.for_next(1, rejection("BadDeviceToken"))
        peer = await self.connect()
        peer.h2.update_settings({4: 0})
        answer = peer.push()
        await peer.ping()
        self.assertFalse(answer.called)
        peer.h2.update_settings({4: 65_535})
        peer.flush()
        self.assertEqual((await answer).reason, "BadDeviceToken")

    async def test_greetings(self) -> None:
        """A connection can be closed, reset, or met with silence, each in its turn."""
        server = await self.serve()
        server.next_behaviours.extend(Behaviour(greeting=greeting) for greeting in Greeting)
        first = await self.connect()
        await first.push()
        peers = [await self.connect(ready=False) for _ in range(4)]
        no_settings, silent, closed, reset = peers
        await gatherResults([closed.lost, reset.lost])
        await first.push()
        self.assertFalse(no_settings.ready.called or no_settings.lost.called)
        self.assertFalse(silent.lost.called)

    async def test_restart(self) -> None:
        """A stopped server has reset all its connections, and starts again on its port."""
        server = await self.serve()
        peer = await self.connect()
        await server.stop()
        await peer.lost
        self.assertEqual(server.connections, set())
        self.assertEqual(await server.start(), self.port)
        self.assertEqual((await (await self.connect()).push()).status, 200)
