"""The simulated Google over TLS: HTTP/2 or HTTP/1.1, with Google's habits and every fault."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any, cast

import attrs
import treq
from h2.errors import ErrorCodes
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

from middlewared.simulator.certificates import (
    Authority,
    IssuedServiceAccount,
    write_service_account,
)
from middlewared.simulator.google_errors import FCM_ERRORS, fcm_error
from middlewared.simulator.google_http2 import Habits
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.http1_server import BreakOff, HttpReply, json_reply
from middlewared.simulator.http2.frame_steps import (
    ExtraHeaders,
    GoAway,
    Greeting,
    Head,
    Interim,
    Padding,
    Part,
    RawFrames,
    ResetStream,
    StreamLimit,
    Trailers,
)
from middlewared.simulator.record import GooglePush
from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall
from tests.h2peer import Answer, H2Peer, connect
from tests.waiting import until

TOKEN = "phone-1:APA91"
REFUSED_STREAM = 7
LARGEST_STREAM_ID = 2**31 - 1
UNLIMITED = Habits(idle_s=None, max_age_s=None, most_pings=None, answer_limit_s=None)


@attrs.frozen
class Credentials:
    """Made once for all tests."""

    folder: tempfile.TemporaryDirectory[str]
    authority: Path
    server: Path
    account: IssuedServiceAccount


@functools.cache
def credentials() -> Credentials:
    folder = tempfile.TemporaryDirectory()
    authority = Authority(folder=Path(folder.name))
    account = write_service_account(Path(folder.name), token_uri="https://unused.example/token")
    return Credentials(folder, authority.certificate, authority.server(), account)


def last_stream_ids(peer: H2Peer) -> list[int | None]:
    """The last stream of each GOAWAY."""
    return [goaway.last_stream_id for goaway in peer.goaways]


class GoogleHttp2TestCase(TestCase):
    """A running server with one trusted account, and independent clients of both protocols."""

    async def serve(self, habits: Habits = UNLIMITED, **options: Any) -> GoogleServer:
        self.pushed: list[GooglePush] = []
        self.server = GoogleServer(
            reactor=reactor,
            certificate=credentials().server,
            listener=self.pushed.append,
            habits=habits,
            **options,
        )
        self.port = await self.server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.stop()))
        self.server.trust(credentials().account)
        grant = self.server.oauth.issue(credentials().account)
        self.access_token = json.loads(grant.body)["access_token"]
        return self.server

    async def connect(
        self, *, protocols: tuple[bytes, ...] = (b"h2", b"http/1.1"), ready: bool = True
    ) -> H2Peer:
        peer = await connect(
            reactor, self.port, authority=credentials().authority, protocols=protocols
        )
        self.addCleanup(self.disconnect, peer)
        if ready:
            await peer.ready
        return peer

    def disconnect(self, peer: H2Peer) -> Deferred[Any]:
        if not peer.lost.called:
            peer.abort()
        return peer.lost

    @property
    def path(self) -> str:
        return f"/v1/projects/{credentials().account.project_id}/messages:send"

    def body(self, token: str) -> bytes:
        message = {"token": token, "data": {"type": "call"}, "android": {"priority": "HIGH"}}
        return json.dumps({"message": message}).encode()

    def send(self, peer: H2Peer, *, token: str = TOKEN, path: str = "") -> Deferred[Answer]:
        fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", peer.authority),
            (":path", path or self.path),
            ("authorization", f"Bearer {self.access_token}"),
            ("content-type", "application/json"),
        ]
        return peer.request(fields, self.body(token))

    async def send_http1(self, *, token: str = TOKEN) -> Answer:
        """Push over HTTP/1.1, by treq."""
        pool = HTTPConnectionPool(reactor)
        self.addCleanup(pool.closeCachedConnections)
        certificate = Certificate.loadPEM(credentials().authority.read_bytes())
        trusted = BrowserLikePolicyForHTTPS(trustRoot=trustRootFromCertificates([certificate]))
        client = HTTPClient(cast(Any, Agent(reactor, trusted, pool=pool)))
        headers: Any = {
            "Authorization": f"Bearer {self.access_token}",
            "Content-Type": "application/json",
        }
        url = f"https://127.0.0.1:{self.port}{self.path}"
        response = await client.post(url, data=self.body(token), headers=headers)
        fields = {
            name.decode().lower(): b", ".join(values).decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, fields, await treq.content(response))


class ProtocolTests(GoogleHttp2TestCase):
    """ALPN decides between HTTP/2 and HTTP/1.1."""

    async def test_http2_is_preferred(self) -> None:
        """A client that offers both gets HTTP/2, even if it names HTTP/1.1 first."""
        server = await self.serve()
        peer = await self.connect(protocols=(b"http/1.1", b"h2"))
        self.assertEqual((await self.send(peer)).status, 200)
        self.assertEqual(server.protocols, {"h2": 1})
        self.assertEqual(len(server.connections), 1)

    async def test_http1_for_clients_that_offer_nothing_else(self) -> None:
        """A client without ALPN gets HTTP/1.1, and so does one that offers it alone."""
        server = await self.serve()
        answer = await self.send_http1()
        self.assertEqual(answer.status, 200)
        self.assertIn("name", json.loads(answer.body))
        await self.connect(protocols=(b"http/1.1",), ready=False)
        await until(lambda: server.protocols == {"http/1.1": 2})
        self.assertEqual(server.connections, set())

    async def test_http1_only(self) -> None:
        """With ``http2=False`` a client that offers both gets HTTP/1.1."""
        server = await self.serve(http2=False)
        peer = await self.connect(ready=False)
        self.assertEqual(await peer.agreed, b"http/1.1")
        self.assertEqual((await self.send_http1()).status, 200)
        self.assertEqual(server.protocols, {"http/1.1": 2})

    async def test_no_alpn(self) -> None:
        """With ``alpn=False`` nothing is chosen, and HTTP/1.1 is spoken."""
        server = await self.serve(alpn=False)
        peer = await self.connect(ready=False)
        self.assertIsNone(await peer.agreed)
        self.assertEqual((await self.send_http1()).status, 200)
        self.assertEqual(server.protocols, {"http/1.1": 2})

    async def test_the_settings_are_googles(self) -> None:
        """100 streams, and windows of 1 MiB for the connection and each stream."""
        await self.serve(Habits())
        peer = await self.connect()
        await peer.ping()
        self.assertEqual(peer.limits, [100])
        self.assertEqual(peer.h2.remote_settings.initial_window_size, 1_048_576)
        self.assertEqual(peer.h2.outbound_flow_control_window, 1_048_576)

    async def test_failed_handshakes_are_noted(self) -> None:
        """A client that leaves before TLS is done is a violation, not a connection."""
        server = await self.serve()
        server.next_habits.append(Habits(greeting=Greeting.SILENT))
        silent = await self.connect(ready=False)
        await until(lambda: server.connections_opened == 1)
        silent.abort()
        stranger = await connect(
            reactor, self.port, authority=await self.foreign_authority(), protocols=(b"h2",)
        )
        await stranger.lost
        await until(lambda: server.record.violations)
        self.assertIn("no handshake", server.record.violations[0])
        self.assertEqual(server.protocols, {})

    async def foreign_authority(self) -> Path:
        folder = Path(credentials().folder.name)
        return Authority(folder=folder, name="foreign").certificate


class AnswerTests(GoogleHttp2TestCase):
    """What serves HTTP/1.1 serves HTTP/2 as well."""

    async def test_accepts_records_and_reports(self) -> None:
        """A good message gets its name; it is recorded, and the listener is notified."""
        server = await self.serve()
        answer = await self.send(await self.connect())
        self.assertEqual(answer.status, 200)
        name = json.loads(answer.body)["name"]
        self.assertTrue(name.startswith("projects/simulated-project/messages/0:"))
        (push,) = self.pushed
        self.assertEqual((push.token, push.protocol), (TOKEN, "v1"))
        self.assertEqual((push.connection, push.stream_id), (1, 1))
        self.assertEqual(list(server.record.received), [push])
        self.assertEqual(server.request_count, 1)

    async def test_header_fields_are_googles(self) -> None:
        """Answers have the fields of Google's, over both protocols."""
        await self.serve()
        over_http2 = (await self.send(await self.connect())).headers
        over_http1 = (await self.send_http1()).headers
        for fields in (over_http2, over_http1):
            self.assertEqual(fields["content-type"], "application/json; charset=UTF-8")
            self.assertEqual(fields["x-xss-protection"], "0")
            self.assertEqual(fields["server"], "scaffolding on HTTPServer2")
            self.assertTrue(fields["date"].endswith("GMT"))
            self.assertIn("Referer", fields["vary"])
            self.assertIn("h3=", fields["alt-svc"])

    async def test_header_blocks_stay_right(self) -> None:
        """Answers of many kinds, alternating, have the fields they should have."""
        server = await self.serve()
        peer = await self.connect()
        for number in range(20):
            server.scripts.for_next(1, json_reply(429, {}, retry_after=str(number)))
            server.scripts.for_next(1, HttpReply(503))
            limited, empty, good = [await self.send(peer) for _ in range(3)]
            self.assertEqual((limited.status, limited.headers["retry-after"]), (429, str(number)))
            self.assertEqual((empty.status, empty.body), (503, b""))
            self.assertNotIn("content-type", empty.headers)
            self.assertEqual((good.status, good.headers["alt-svc"][:2]), (200, "h3"))

    async def test_a_small_header_table(self) -> None:
        """A client that allows no header table gets answers that need none."""
        await self.serve()
        peer = await self.connect()
        await self.send(peer)
        peer.h2.update_settings({1: 0})
        for _ in range(3):
            self.assertEqual((await self.send(peer)).headers["x-xss-protection"], "0")

    async def test_a_small_window(self) -> None:
        """An answer waits for the client's window."""
        await self.serve()
        peer = await self.connect()
        peer.h2.update_settings({4: 10})
        peer.flush()
        await peer.ping()
        answer = self.send(peer)
        await peer.ping()
        self.assertFalse(answer.called)
        peer.h2.update_settings({4: 65_535})
        peer.flush()
        self.assertEqual((await answer).status, 200)

    async def test_validates_over_http2_too(self) -> None:
        """Access token, project and path are validated as over HTTP/1.1."""
        server = await self.serve()
        peer = await self.connect()
        self.assertEqual((await self.send(peer, path="/v1/projects/x/messages:send")).status, 404)
        self.assertEqual((await self.send(peer, path="/nothing")).status, 404)
        server.oauth.revoke_all()
        self.assertEqual((await self.send(peer)).status, 401)
        self.assertEqual(self.pushed, [])

    async def test_token_requests(self) -> None:
        """The token endpoint answers over HTTP/2."""
        await self.serve()
        peer = await self.connect()
        answer = await self.send(peer, path="/token")
        self.assertEqual(answer.status, 400)
        self.assertIn("error", json.loads(answer.body))

    async def test_every_documented_error(self) -> None:
        """A scripted error has its status and names its code in the details."""
        server = await self.serve()
        peer = await self.connect()
        for code, (status, _) in FCM_ERRORS.items():
            server.scripts.for_token(TOKEN, fcm_error(code))
            answer = await self.send(peer)
            error = json.loads(answer.body)["error"]
            self.assertEqual((answer.status, error["details"][-1]["errorCode"]), (status, code))

    async def test_a_hundred_at_once(self) -> None:
        """As many pushes as the limit allows share one connection."""
        server = await self.serve()
        peer = await self.connect()
        answers = await gatherResults([self.send(peer, token=f"t{n}") for n in range(100)])
        self.assertEqual([each.status for each in answers], [200] * 100)
        self.assertEqual(server.connections_opened, 1)


class HabitTests(GoogleHttp2TestCase):
    """What Google's front ends do of their own accord."""

    async def test_too_many_pings(self) -> None:
        """The third PING without a request since the last is one too many."""
        server = await self.serve(attrs.evolve(UNLIMITED, most_pings=3))
        server.scripts.for_next(1, Stall())
        peer = await self.connect()
        self.send(peer)
        await peer.ping()
        await peer.ping()
        self.assertIsNone(peer.goaway)
        peer.ping()
        await peer.lost
        assert peer.goaway is not None
        self.assertEqual(peer.goaway.error_code, ErrorCodes.ENHANCE_YOUR_CALM)
        self.assertEqual(peer.goaway.additional_data, b"too_many_pings")
        self.assertEqual(peer.goaway.last_stream_id, 1)

    async def test_pings_between_requests(self) -> None:
        """Each request begins the count of PINGs again."""
        await self.serve(attrs.evolve(UNLIMITED, most_pings=3))
        peer = await self.connect()
        for _ in range(4):
            await peer.ping()
            await peer.ping()
            self.assertEqual((await self.send(peer)).status, 200)
        self.assertIsNone(peer.goaway)

    async def test_idle_connections_time_out(self) -> None:
        """A connection without requests gets GOAWAY NO_ERROR, PINGs or not, and is closed."""
        await self.serve(attrs.evolve(UNLIMITED, idle_s=0.05))
        peer = await self.connect()
        while not peer.lost.called:
            peer.ping()
            await deferLater(reactor, 0.01)
        assert peer.goaway is not None
        self.assertEqual(peer.goaway.error_code, ErrorCodes.NO_ERROR)
        self.assertEqual(peer.goaway.additional_data, b"session_timed_out")

    async def test_a_waiting_request_is_no_rest(self) -> None:
        """A connection whose request still waits for its answer does not time out."""
        server = await self.serve(
            attrs.evolve(UNLIMITED, idle_s=0.05, idle_debug=b"session_timeout")
        )
        server.scripts.for_next(1, Delay(0.15))
        # The request is sent with the end of the handshake, ahead of the time-out.
        peer = await self.connect(ready=False)
        self.assertEqual((await self.send(peer)).status, 200)
        await peer.lost
        assert peer.goaway is not None
        self.assertEqual(peer.goaway.additional_data, b"session_timeout")

    async def test_max_age(self) -> None:
        """
        An old connection is announced to end, and ends when its requests are answered.

        The announcement covers every stream, so a request that crosses it is served.
        """
        server = await self.serve(attrs.evolve(UNLIMITED, max_age_s=0.05))
        server.scripts.for_next(2, Delay(0.1))
        peer = await self.connect()
        answer = self.send(peer)
        await peer.goaway_seen
        crossed = self.send(peer)
        self.assertEqual([(await each).status for each in (answer, crossed)], [200, 200])
        await peer.lost
        assert peer.goaway is not None
        self.assertEqual(last_stream_ids(peer), [LARGEST_STREAM_ID, 3])
        self.assertEqual(peer.goaway.additional_data, b"max_age")
        self.assertEqual(peer.goaway.error_code, ErrorCodes.NO_ERROR)

    async def test_the_internal_limit(self) -> None:
        """A push that takes longer than the limit ends in 500 INTERNAL, over both protocols."""
        server = await self.serve(attrs.evolve(UNLIMITED, answer_limit_s=0.05))
        server.scripts.for_next(2, Deliver(), Delay(0.02), Delay(60))
        peer = await self.connect()
        for answer in (await self.send(peer), await self.send_http1()):
            error = json.loads(answer.body)["error"]
            self.assertEqual((answer.status, error["status"]), (500, "INTERNAL"))
            self.assertEqual(error["details"][-1]["errorCode"], "INTERNAL")
        self.assertEqual(len(self.pushed), 2)

    async def test_the_usual_habits(self) -> None:
        """By default the habits are Google's."""
        habits = GoogleServer(reactor=reactor).habits
        self.assertEqual(habits.most_pings, 3)
        self.assertEqual((habits.idle_s, habits.max_age_s), (240, 3600))
        self.assertEqual(habits.answer_limit_s, 5)


class FaultTests(GoogleHttp2TestCase):
    """Every fault that can be ordered happens on the wire."""

    async def prepare(self, *steps: Any, count: int = 1, **options: Any) -> H2Peer:
        server = await self.serve(**options)
        server.scripts.for_next(count, *steps)
        return await self.connect()

    async def test_reset_streams(self) -> None:
        """RST_STREAM with any code; the connection lives on."""
        peer = await self.prepare(ResetStream(REFUSED_STREAM))
        self.server.scripts.for_next(1, Deliver(), ResetStream(ErrorCodes.INTERNAL_ERROR))
        self.assertEqual((await self.send(peer)).reset, REFUSED_STREAM)
        self.assertEqual(self.pushed, [])
        self.assertEqual((await self.send(peer)).reset, ErrorCodes.INTERNAL_ERROR)
        self.assertEqual(len(self.pushed), 1)
        self.assertEqual((await self.send(peer)).status, 200)

    async def test_a_head_without_its_end(self) -> None:
        """The status and a piece of the body come, and then the stream is reset."""
        peer = await self.prepare(Head(404), Part(b'{"error'), ResetStream(2))
        answer = await self.send(peer)
        self.assertEqual((answer.status, answer.body, answer.reset), (404, b'{"error', 2))

    async def test_a_body_that_breaks_off(self) -> None:
        """Half of the body comes, and then a TCP reset."""
        peer = await self.prepare(BreakOff(HttpReply(200, b"x" * 100)))
        answer = self.send(peer)
        await peer.lost
        self.assertFalse(answer.called)
        self.assertEqual(peer.answers[1].body, b"x" * 50)
        self.assertEqual(peer.answers[1].status, 200)

    async def test_goaway_that_leaves_a_push_out(self) -> None:
        """GOAWAY before processing: the last stream is an earlier one, no answer follows."""
        peer = await self.prepare(Delay(0.05))
        self.server.scripts.for_next(1, GoAway(unprocessed=1, close=True))
        covered, left_out = self.send(peer), self.send(peer)
        self.assertEqual((await covered).status, 200)
        await peer.lost
        self.assertEqual(last_stream_ids(peer), [1])
        self.assertFalse(left_out.called)
        self.assertEqual(len(self.pushed), 1)

    async def test_goaway_that_covers_a_push(self) -> None:
        """GOAWAY after processing: the push is answered, then the connection is closed."""
        peer = await self.prepare(GoAway(close=True), Delay(0.02))
        self.assertEqual((await self.send(peer)).status, 200)
        await peer.lost
        self.assertEqual(last_stream_ids(peer), [1])

    async def test_goaway_and_close_without_an_answer(self) -> None:
        """GOAWAY covers the push, and the connection is closed before its answer."""
        peer = await self.prepare(Deliver(), GoAway(code=2, debug=b"bye"), HangUp())
        answer = self.send(peer)
        await peer.lost
        assert peer.goaway is not None
        self.assertEqual((peer.goaway.error_code, peer.goaway.additional_data), (2, b"bye"))
        self.assertEqual(last_stream_ids(peer), [1])
        self.assertFalse(answer.called)

    async def test_goaway_after_a_number_of_requests(self) -> None:
        """A connection can end after so many requests; the rest of a burst is left out."""
        peer = await self.prepare(habits=attrs.evolve(UNLIMITED, goaway_after=2))
        self.server.scripts.clear()
        pushes = [self.send(peer) for _ in range(4)]
        await peer.lost
        self.assertEqual([each.called for each in pushes], [True, True, False, False])
        self.assertEqual(last_stream_ids(peer), [3])

    async def test_reset_connection(self) -> None:
        """A TCP reset ends the connection without a GOAWAY."""
        peer = await self.prepare(ResetConnection())
        self.send(peer)
        await peer.lost
        self.assertIsNone(peer.goaway)

    async def test_hang_up(self) -> None:
        """A clean close without GOAWAY or answer."""
        peer = await self.prepare(HangUp())
        answer = self.send(peer)
        await peer.lost
        self.assertIsNone(peer.goaway)
        self.assertFalse(answer.called)

    async def test_stall(self) -> None:
        """A stalled push is never answered; PINGs and other pushes are."""
        peer = await self.prepare(Stall())
        stalled = self.send(peer)
        await self.send(peer)
        await peer.ping()
        self.assertFalse(stalled.called)

    async def test_silence(self) -> None:
        """A silent connection does not even answer PINGs; another one works."""
        peer = await self.prepare(Stall(acknowledge_pings=False))
        unanswered: list[Deferred[Any]] = [self.send(peer), peer.ping()]
        other = await self.connect()
        await self.send(other)
        await self.send(other)
        self.assertFalse(any(each.called for each in unanswered))

    async def test_malformed_frames(self) -> None:
        """Bytes go on the wire as they are: an unknown frame, then a DATA frame on stream 0."""
        unknown = RawFrames(b"\x00\x00\x02\xee\x00\x00\x00\x00\x00hi")
        peer = await self.prepare(unknown)
        self.assertEqual((await self.send(peer)).status, 200)
        self.server.scripts.for_next(
            1, RawFrames(b"\x00\x00\x01\x00\x00\x00\x00\x00\x00!"), Stall()
        )
        peer.broken = Deferred()
        self.send(peer)
        self.assertEqual(await peer.broken, "ProtocolError")

    async def test_shapes_of_an_answer(self) -> None:
        """Interim answer, padding, trailers and many header fields shape one answer."""
        filler = tuple((f"x-filler-{number}", "y" * 1000) for number in range(30))
        peer = await self.prepare(Interim(), Padding(), Trailers(), ExtraHeaders(filler))
        answer = await self.send(peer)
        self.assertEqual((answer.interim, answer.status), ([103], 200))
        self.assertEqual(answer.trailers, {"x-trailer": "simulated"})
        self.assertEqual(answer.headers["x-filler-29"], "y" * 1000)
        self.assertIn("name", json.loads(answer.body))

    async def test_stream_limit_changes(self) -> None:
        """The limit changes by script, and a peer that overruns it gets GOAWAY."""
        peer = await self.prepare(StreamLimit(1))
        await self.send(peer)
        await peer.ping()
        self.assertEqual(peer.limits, [100, 1])

    async def test_greetings(self) -> None:
        """A connection can be closed, reset, or met with silence, each in its turn."""
        server = await self.serve()
        server.next_habits.extend(
            attrs.evolve(UNLIMITED, greeting=greeting) for greeting in Greeting
        )
        first = await self.connect()
        no_settings, silent, closed, reset = [await self.connect(ready=False) for _ in range(4)]
        await gatherResults([closed.lost, reset.lost])
        self.assertEqual((await self.send(first)).status, 200)
        self.assertFalse(no_settings.ready.called or no_settings.lost.called)
        self.assertFalse(silent.lost.called)

    async def test_by_hand(self) -> None:
        """A test can send GOAWAY on a live connection, fall silent on it, or reset all."""
        peer = await self.prepare()
        await self.send(peer)
        (connection,) = self.server.connections
        connection.go_away(GoAway())
        await peer.goaway_seen
        self.assertFalse(peer.lost.called)
        other = await self.connect()
        (second,) = self.server.connections - {connection}
        second.fall_silent()
        unanswered = self.send(other)
        self.server.drop_connections()
        await gatherResults([peer.lost, other.lost])
        self.assertFalse(unanswered.called)
        await until(lambda: not self.server.connections)
        self.assertEqual((await self.send(await self.connect())).status, 200)

    async def test_steps_of_frames_need_http2(self) -> None:
        """Over HTTP/1.1 a step that only HTTP/2 has is answered 505, so that it is noticed."""
        server = await self.serve()
        server.scripts.for_next(1, ResetStream())
        answer = await self.send_http1()
        self.assertEqual((answer.status, answer.body[:12]), (505, b"needs HTTP/2"))

    async def test_restart(self) -> None:
        """A stopped server has reset its connections, and starts again on its port."""
        peer = await self.prepare()
        await self.server.stop()
        await peer.lost
        self.assertEqual(self.server.connections, set())
        self.assertEqual(await self.server.start(), self.port)
        self.assertEqual((await self.send(await self.connect())).status, 200)
