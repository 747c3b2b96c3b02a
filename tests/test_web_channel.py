"""The limits of one connection, tested by connections that exceed them."""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.internet.task import LoopingCall

from middlewared.immediate_writes import write_immediately
from middlewared.model import Outcome
from middlewared.simulator.certificates import Authority
from tests.web_stand_ins import RawClient, WebCase, basic, http_message, reactor

CALL = b"sip_user_id=260010001&phonenumber=1"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
POST_CALL = b"POST /api/incoming-call/ HTTP/1.1\r\n"
LIMIT = 1000


class LimitsCase(WebCase):
    settings = attrs.evolve(WebCase.settings, max_body_bytes=LIMIT)

    async def exchange(self, *sent: bytes) -> tuple[int, bytes, dict[str, str]]:
        """The answer to ``sent``, after which the server must close."""
        client = await self.connect()
        for data in sent:
            client.send(data)
        response = await client.response()
        await client.closed
        return response.status, response.body, dict(response.headers)

    def set_limits(self, **changed: float) -> None:
        self.web.settings.current = attrs.evolve(self.web.settings.current, **changed)  # type: ignore[arg-type]

    def dribble(self, client: RawClient, data: bytes) -> None:
        """Send ``data`` over and over until the test ends."""
        loop = LoopingCall(client.send, data)
        loop.clock = reactor
        loop.start(0.01)
        self.addCleanup(loop.stop)


class BodySizeTests(LimitsCase):
    async def test_announced_length_is_checked_before_the_body_comes(self) -> None:
        """413, and the connection is closed; also for lengths no integer should hold."""
        for length in (b"%d" % (LIMIT + 1), b"9" * 5000, b"0" * 5000 + b"1" * 20):
            status, body, headers = await self.exchange(
                POST_CALL + b"Content-Length: " + length + b"\r\n\r\n"
            )
            self.assertEqual((status, body), (413, b"status=NAK"))
            self.assertEqual(headers["x-outcome"], "malformed")
            self.assertEqual(headers["connection"], "close")
            self.assertIn("server-timing", headers)

    async def test_body_of_the_limit_is_read(self) -> None:
        """Both ways of sending it; one byte more is 413."""
        for extra, expected in ((0, 200), (1, 413)):
            self.calls.at_once = Outcome.TIMEOUT
            body = CALL + b"&x=" + b"x" * (LIMIT - len(CALL) - 3 + extra)
            response = await self.request("POST", "/api/incoming-call/", body, FORM)
            self.assertEqual(response.status, expected)
            client = await self.connect()
            client.send(
                POST_CALL + b"Content-Type: application/x-www-form-urlencoded\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for letter in body:
                client.send(b"1\r\n%c\r\n" % letter)
            client.send(b"0\r\n\r\n")
            self.assertEqual((await client.response()).status, expected)

    async def test_client_that_sends_on_still_reads_its_answer(self) -> None:
        """What comes after the limit is discarded, not answered with a reset."""
        for header in (b"Content-Length: 5000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
            client = await self.connect()
            client.send(b"POST /api/call-response/ HTTP/1.1\r\n" + header)
            client.send((b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n") * 70)
            response = await client.response()
            self.assertEqual(response.json(), {"detail": "Request is too large."})
            await client.closed
            self.assertFalse(client.reset)

    async def test_endless_body_is_cut_at_the_deadline(self) -> None:
        """Reading on after a 413 has an end."""
        self.set_limits(request_timeout_s=0.2)
        client = await self.connect()
        client.send(POST_CALL + b"Transfer-Encoding: chunked\r\n\r\n")
        self.dribble(client, b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")
        self.assertEqual((await client.response()).status, 413)
        await client.closed

    async def test_other_faults_are_reported_first(self) -> None:
        """404, 405, 403 and 401 come before 413, which comes before 415 and 400."""
        large, text = b"x" * (LIMIT + 1), {"Content-Type": "text/plain"}
        for method, path, headers, expected in (
            ("POST", "/nowhere", {}, 404),
            ("PUT", "/api/incoming-call/", {}, 405),
            ("POST", "/api/apns-device/", {}, 401),
            ("POST", "/api/apns-device/", basic(password=b"wrong"), 401),
            ("POST", "/api/apns-device/", basic() | text, 413),
            ("POST", "/api/call-response/", text, 413),
        ):
            response = await self.request(method, path, large, headers)
            self.assertEqual((path, response.status), (path, expected))
            self.assertEqual(response.headers["connection"], "close")
        self.set_limits(pbx_networks=())  # type: ignore[arg-type]
        response = await self.request("POST", "/api/incoming-call/", large)
        self.assertEqual(response.status, 403)

    async def test_too_much_is_not_invited(self) -> None:
        """No "100 Continue" to a body that will not be read; others get theirs."""
        head = POST_CALL + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        self.assertEqual((await self.exchange(head % (LIMIT + 1)))[0], 413)
        client = await self.connect()
        client.send(head % 5)
        self.assertEqual((await client.response()).status, 100)
        client.send(b"a=b&c")
        self.assertEqual((await client.response()).status, 415)


class TimeTests(LimitsCase):
    async def test_slow_headers_are_cut(self) -> None:
        """However steadily they drip."""
        self.set_limits(request_timeout_s=0.2)
        client = await self.connect()
        client.send(b"GET /health/ HTTP/1.1\r\n")
        self.dribble(client, b"X: y\r\n")
        self.assertEqual((await client.response()).status, 408)
        await client.closed

    async def test_slow_body_is_cut(self) -> None:
        """In the format of its route, known by then."""
        self.set_limits(request_timeout_s=0.2)
        client = await self.connect()
        client.send(POST_CALL + b"Content-Length: 900\r\n\r\n")
        self.dribble(client, b"x")
        response = await client.response()
        self.assertEqual((response.status, response.body), (408, b"status=NAK"))
        await client.closed

    async def test_second_request_has_its_own_deadline(self) -> None:
        """Also when its first bytes came along with the first request."""
        self.set_limits(request_timeout_s=0.2)
        client = await self.connect()
        client.send(http_message("GET", "/health/") + b"GET /heal")
        self.assertEqual((await client.response()).status, 200)
        self.dribble(client, b"x")
        self.assertEqual((await client.response()).status, 408)
        await client.closed

    async def test_idle_connections_are_closed(self) -> None:
        """Both one that never sent a request and one that did; without an answer."""
        self.set_limits(idle_timeout_s=0.2)
        fresh, used = await self.connect(), await self.connect()
        used.send(http_message("GET", "/health/"))
        self.assertEqual((await used.response()).status, 200)
        await fresh.closed
        await used.closed

    async def test_held_request_has_no_deadline(self) -> None:
        """It waits for its call, however long that takes."""
        self.set_limits(request_timeout_s=0.1, idle_timeout_s=0.1)
        held = await self.connect()
        held.send(http_message("POST", "/api/incoming-call/", CALL, FORM))
        await self.calls.until(rung=1)
        for _ in range(3):
            await (await self.connect()).closed
        self.calls.ringing[0].callback(Outcome.ANSWERED)
        self.assertEqual((await held.response()).body, b"status=ACK")
        await held.closed


class BrokenHttpTests(LimitsCase):
    async def test_headers_too_large_are_431(self) -> None:
        """One long line, many lines, too many lines; before any of it is parsed."""
        for headers in (b"X: " + b"x" * 20_000, b"X: y\r\n" * 4000, b"X:\r\n" * 600):
            status, body, _ = await self.exchange(POST_CALL + headers + b"\r\n\r\n")
            self.assertEqual((status, body), (431, b"status=NAK"))

    async def test_broken_requests_are_400(self) -> None:
        """In the PBX's format where the path is known, else in JSON; then closed."""
        chunked = POST_CALL + b"Transfer-Encoding: chunked\r\n"
        for sent, of_pbx in (
            (b"nonsense\r\n\r\n", False),
            (b"GET / HTTP/2.0\r\n\r\n", False),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", False),
            (b"GET /health/ HTTP/1.1\r\nbroken\r\n\r\n", False),
            (POST_CALL + b"broken\r\n\r\n", True),
            (POST_CALL + b"Content-Length: -1\r\n\r\n", True),
            (POST_CALL + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", True),
            (chunked + b"Content-Length: 5\r\n\r\n", True),
            (POST_CALL + b"Transfer-Encoding: gzip\r\n\r\n", True),
            (chunked + b"\r\nxyz\r\n", True),
            (chunked + b"\r\n5\r\n12345678", True),
            (chunked + b"\r\n" + b"0" * 2000, True),
            (chunked + b"\r\n0\r\n" + b"X: y\r\n" * 20_000, True),
        ):
            status, body, headers = await self.exchange(sent)
            self.assertEqual((sent[:60], status), (sent[:60], 400))
            expected = b"status=NAK" if of_pbx else b'{"detail": "Malformed request."}'
            self.assertEqual(body, expected)
            self.assertEqual("x-outcome" in headers, of_pbx)

    async def test_connections_are_not_kept_at_the_end(self) -> None:
        """What is held is answered; the next answer of a connection closes it."""
        client = await self.connect()
        client.send(http_message("POST", "/api/incoming-call/", CALL, FORM))
        await self.calls.until(rung=1)
        self.web.settings.keep_alive = False
        self.calls.ringing[0].callback(Outcome.ANSWERED)
        self.assertNotIn("connection", (await client.response()).headers)
        client.send(http_message("GET", "/health/"))
        self.assertEqual((await client.response()).headers["connection"], "close")
        await client.closed

    async def test_pipelined_requests_are_answered_in_order(self) -> None:
        """Each after the one before it has ended."""
        client = await self.connect()
        client.send(
            http_message("POST", "/api/incoming-call/", CALL, FORM)
            + http_message("GET", "/health/") * 50
            + http_message("GET", "/nowhere")
        )
        await self.calls.until(rung=1)
        self.calls.ringing[0].callback(Outcome.UNAVAILABLE)
        statuses = [(await client.response()).status for _ in range(52)]
        self.assertEqual(statuses, [200] * 51 + [404])

    async def test_head_has_no_body(self) -> None:
        """But the length of the one GET would have."""
        client = await self.connect()
        client.send(http_message("HEAD", "/health/") + http_message("GET", "/health/"))
        head = await client.response(head_only=True)
        full = await client.response()
        self.assertEqual(head.headers["content-length"], str(len(full.body)))


class TlsTests(LimitsCase):
    """The limits hold behind TLS, where a connection cannot be half closed."""

    async def start_tls(self) -> RawClient:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        authority = Authority(folder=folder)
        pem = authority.server(hosts=["localhost"]).read_bytes()
        site = self.web.site()
        self.sites.append(site)
        port = reactor.listenSSL(
            0, site, PrivateCertificate.loadPEM(pem).options(), interface="127.0.0.1"
        )
        self.addCleanup(port.stopListening)
        trust = Certificate.loadPEM(authority.certificate.read_bytes())
        plain: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        endpoint: Any = wrapClientTLS(optionsForClientTLS("localhost", trust), plain)
        client: RawClient = await endpoint.connect(Factory.forProtocol(RawClient))
        self.clients.append(client)
        return client

    async def test_calls_and_refusals(self) -> None:
        """An ACK, then a body too large: answered, and closed without a wait."""
        client = await self.start_tls()
        self.calls.at_once = Outcome.ANSWERED
        client.send(http_message("POST", "/api/incoming-call/", CALL, FORM))
        self.assertEqual((await client.response()).body, b"status=ACK")
        client.send(POST_CALL + b"Content-Length: 5000000\r\n\r\n" + b"x" * 100_000)
        self.assertEqual((await client.response()).status, 413)
        await client.closed


class ConnectionTests(LimitsCase):
    async def test_connections_are_capped(self) -> None:
        """One too many is closed at once; the others go on, and a free place is taken."""
        self.set_limits(max_connections=2)
        first, second = await self.connect(), await self.connect()
        for client in (first, second):
            client.send(http_message("GET", "/health/"))
            self.assertEqual((await client.response()).status, 200)
        await (await self.connect()).closed
        first.send(http_message("GET", "/health/"))
        self.assertEqual((await first.response()).status, 200)
        first.send(b"broken\r\n\r\n")
        await first.closed
        third = await self.connect()
        third.send(http_message("GET", "/health/"))
        self.assertEqual((await third.response()).status, 200)

    async def test_pbx_that_half_closes_or_resets_ends_its_call(self) -> None:
        """While another connection's call goes on."""
        clients = [await self.connect() for _ in range(3)]
        for client in clients:
            client.send(http_message("POST", "/api/incoming-call/", CALL, FORM))
        await self.calls.until(rung=3)
        clients[0].transport.loseWriteConnection()
        await clients[1].close()
        await self.calls.until(rung=3, hung_up=2)
        for ringing in self.calls.ringing:
            if not ringing.called:
                ringing.callback(Outcome.ANSWERED)
        self.assertEqual((await clients[2].response()).body, b"status=ACK")

    async def test_answers_to_a_slow_reader_arrive_whole_and_in_order(self) -> None:
        """More of them than the sockets between take at once, of two kinds in turn."""
        paths = ["/api/openapi.json", "/health/"] * 200
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(b"".join(http_message("GET", path) for path in paths))
        other = await self.connect()
        lengths = {}
        for path in paths[:2]:
            other.send(http_message("GET", path))
            lengths[path] = len((await other.response()).body)
        client.transport.resumeProducing()
        for path in paths:
            response = await client.response()
            self.assertEqual((response.status, len(response.body)), (200, lengths[path]))
            response.json()

    async def test_client_that_does_not_read_is_closed(self) -> None:
        """After the idle time-out, and a while to read its last answer."""
        self.set_limits(idle_timeout_s=0.2)
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(http_message("GET", "/api/openapi.json") * 5000)
        await self.request("GET", "/health/")
        while self.sites[0].connections:
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.01, turn.callback, None)
            await turn
        client.transport.resumeProducing()
        await client.closed

    async def test_hang_up_behind_pipelined_requests_is_noticed(self) -> None:
        """A PBX that sent more requests behind its held call ends that call by closing."""
        client = await self.connect()
        client.send(
            http_message("POST", "/api/incoming-call/", CALL, FORM)
            + http_message("GET", "/health/") * 50
        )
        await self.calls.until(rung=1)
        await client.close()
        await self.calls.until(rung=1, hung_up=1)

    async def test_hang_up_of_a_call_served_from_the_queue_is_noticed(self) -> None:
        """Reading goes on once a request that had waited for its turn is held."""
        client = await self.connect()
        client.send(
            http_message("GET", "/health/") * 5
            + http_message("POST", "/api/incoming-call/", CALL, FORM)
            + http_message("GET", "/health/") * 5
        )
        await self.calls.until(rung=1)
        await client.close()
        await self.calls.until(rung=1, hung_up=1)

    async def test_what_is_sent_at_once_does_not_overtake_what_waits(self) -> None:
        """Both kinds of writing on one connection; the client sees their order."""

        class Server(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                write_immediately(self.transport, b"1")
                self.transport.write(b"2")
                write_immediately(self.transport, b"3")
                self.transport.loseConnection()

        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(Factory.forProtocol(Server))
        self.addCleanup(port.stopListening)
        client = await self.connect(port.getHost().port)
        await client.closed
        self.assertEqual(client.received, b"123")

    async def test_client_that_resets_before_its_answer_harms_no_one(self) -> None:
        """The answer meets a dead connection, of which the reactor does not know yet."""
        request = http_message("POST", "/api/incoming-call/", CALL, FORM)
        gone = socket.create_connection(("127.0.0.1", self.port))
        gone.sendall(request)
        await self.calls.until(rung=1)
        other = await self.connect()
        other.send(request)
        await self.calls.until(rung=2)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        for ringing in self.calls.ringing:
            ringing.callback(Outcome.ANSWERED)
        self.assertEqual((await other.response()).body, b"status=ACK")
        # tearDown sees that the dead connection ends.
