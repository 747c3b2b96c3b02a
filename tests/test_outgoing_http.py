"""The HTTP client against real servers on loopback."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as twisted_reactor
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from middlewared.errors import ConfigError
from middlewared.outgoing.http1_exchange import TOO_LONG
from middlewared.outgoing.http_client import MAX_BODY_BYTES, PooledHttpClient
from middlewared.outgoing.interface import HttpResponse, OutgoingFailed, TimedOut
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, TrustRoots, load_trust
from middlewared.simulator.certificates import EXPIRED, Authority

reactor = cast(Any, twisted_reactor)


class Peer(Resource):
    """A web server whose answer depends on the path."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Any] = []
        self.arrived: Deferred[None] = Deferred()
        self.gone: Deferred[None] = Deferred()
        """Fires when the client left a request that was not completely answered."""

    def render(self, request: Request) -> Any:
        """Answer as the path asks."""
        self.seen.append(request)
        answer = getattr(self, "answer_" + (request.path or b"")[1:].decode(), self.echo)
        result = answer(request)
        if not self.arrived.called:
            self.arrived.callback(None)
        return result

    def echo(self, request: Any) -> bytes:
        return b"%s %s" % (request.method, request.content.read())

    def answer_never(self, request: Any) -> int:
        request.notifyFinish().addErrback(lambda _: self.gone.callback(None))
        return NOT_DONE_YET

    def answer_stall(self, request: Any) -> int:
        request.setHeader("Content-Length", "100")
        request.write(b"half")
        return self.answer_never(request)

    def answer_break(self, request: Any) -> int:
        self.answer_stall(request)
        request.transport.loseConnection()
        return NOT_DONE_YET

    def answer_huge(self, request: Any) -> int:
        request.setHeader("Content-Length", "100000000")
        request.write(b"x" * 1_000_000)
        return self.answer_never(request)

    def answer_redirect(self, request: Any) -> bytes:
        request.setResponseCode(302)
        request.setHeader("Location", "/elsewhere")
        request.addCookie("session", "1", path="/")
        return b""


class CountingSite(Site):
    """A site that knows how many connections were opened."""

    opened = 0

    def buildProtocol(self, addr: Any) -> Any:
        """Count, and go on."""
        self.opened += 1
        return cast(Any, super()).buildProtocol(addr)


class Garbage(Protocol):
    """A server that does not speak HTTP."""

    def dataReceived(self, data: bytes) -> None:
        """Answer nonsense."""
        transport = cast(Any, self.transport)
        transport.write(b"220 mail.example ESMTP\r\n\r\n")
        transport.loseConnection()


@implementer(IPullProducer)
class Endless(Protocol):
    """A server that answers ``begin`` and then ``piece`` for ever, as fast as it is read."""

    def __init__(self, begin: bytes, piece: bytes) -> None:
        self._begin = begin
        self._piece = piece * (20_000 // len(piece))
        self._answers = False
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Begin to answer."""
        if not self._answers:
            self._answers = True
            cast(Any, self.transport).write(self._begin)
            cast(Any, self.transport).registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Go on."""
        cast(Any, self.transport).write(self._piece)

    def stopProducing(self) -> None:
        """The client is gone."""

    def connectionLost(self, reason: Any = None) -> None:
        """Report that the client is gone."""
        self.gone.callback(None)


class HttpClientTests(TestCase):
    """PooledHttpClient over plain TCP and TLS."""

    def setUp(self) -> None:
        """One peer, and a client that trusts the platform alone."""
        self.peer = Peer()
        self.site = CountingSite(cast(Any, self.peer))
        self.client = self.new_client(TrustRoots())

    def new_client(self, trust: TrustRoots, **options: Any) -> PooledHttpClient:
        client = PooledHttpClient(
            reactor=reactor,
            endpoints=DirectEndpoints(reactor),
            tls=ClientTLS(trust=trust),
            **options,
        )
        self.addCleanup(lambda: ensureDeferred(client.close()))
        return client

    def new_authority(self, name: str = "ca") -> Authority:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        return Authority(folder=Path(folder), name=name)

    async def serve(self, factory: Factory | None = None) -> str:
        """Serve over TCP; gives the URL without a path."""
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(factory or self.site)
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    async def serve_tls(self, pem: bytes, factory: Factory | None = None) -> str:
        """Serve with this certificate; gives the URL without a path."""
        certificate = ssl.PrivateCertificate.loadPEM(pem)
        endpoint: Any = SSL4ServerEndpoint(reactor, 0, certificate.options(), interface="127.0.0.1")
        port = await endpoint.listen(factory or self.site)
        self.addCleanup(port.stopListening)
        return f"https://localhost:{port.getHost().port}"

    async def get(
        self, url: str, timeout_s: float = 5, turn_s: float | None = None
    ) -> HttpResponse:
        return await self.client.request("GET", url, headers={}, timeout_s=timeout_s, turn_s=turn_s)

    async def failure(self, url: str) -> str:
        with self.assertRaises(OutgoingFailed) as caught:
            await self.get(url)
        return str(caught.exception)

    async def test_request_and_reply_pass_unchanged(self) -> None:
        """Method, headers and body reach the peer; status and body come back."""
        url = await self.serve()
        reply = await self.client.request(
            "POST", url + "/x", headers={"Authorization": b"Any scheme"}, body=b"data", timeout_s=5
        )
        self.assertEqual((reply.status, reply.body, reply.complete), (200, b"POST data", True))
        self.assertEqual(self.peer.seen[0].getHeader("authorization"), "Any scheme")

    async def test_connection_is_reused(self) -> None:
        """Requests one after the other share a connection."""
        url = await self.serve()
        for _ in range(5):
            await self.get(url)
        self.assertEqual(self.site.opened, 1)

    async def test_redirect_is_an_answer(self) -> None:
        """A redirect is not followed, and its cookie is not kept."""
        url = await self.serve()
        reply = await self.get(url + "/redirect")
        self.assertEqual(reply.status, 302)
        await self.get(url)
        self.assertIsNone(self.peer.seen[-1].getHeader("cookie"))
        self.assertEqual(len(self.peer.seen), 2)

    async def test_silent_peer_is_timed_out(self) -> None:
        """No answer in time is TimedOut, and the connection is closed."""
        url = await self.serve()
        with self.assertRaises(TimedOut):
            await self.get(url + "/never", timeout_s=0.2)
        await self.peer.gone

    async def test_stalled_body_is_timed_out(self) -> None:
        """A body that stops half-way counts into the same time-out, over TLS too."""
        authority = self.new_authority()
        self.client = self.new_client(load_trust(authority.certificate))
        url = await self.serve_tls(authority.server().read_bytes())
        with self.assertRaises(TimedOut):
            await self.get(url + "/stall", timeout_s=0.3)
        await self.peer.gone

    async def test_huge_body_is_cut(self) -> None:
        """The first part of a huge body is given at once, and the connection is closed."""
        self.client = self.new_client(TrustRoots(), max_body_bytes=1000)
        reply = await self.get(await self.serve() + "/huge")
        self.assertEqual((len(reply.body), reply.complete), (1000, False))
        await self.peer.gone

    async def test_broken_answer_is_a_failure(self) -> None:
        """A connection lost inside the body, and bytes that are not HTTP."""
        await self.failure(await self.serve() + "/break")
        await self.peer.gone
        text = await self.failure(await self.serve(Factory.forProtocol(Garbage)))
        self.assertNotIn("ESMTP", text)

    async def answered_endlessly(self, begin: bytes, piece: bytes) -> str:
        """The failure that such an answer is, once the connection is closed."""
        server = Endless(begin, piece)
        text = await self.failure(await self.serve(Factory.forProtocol(lambda: server)))
        await server.gone
        return text

    async def test_head_without_an_end_is_a_failure(self) -> None:
        """Headers, folded lines of one, tiny headers, or a line that goes on and on."""
        ok = b"HTTP/1.1 200 OK\r\n"
        for piece in (b"X: " + b"x" * 900 + b"\r\n", b"X:\n", b" \n"):
            text = await self.answered_endlessly(ok + b"A: b\r\n", piece)
            self.assertEqual(text, TOO_LONG)
        for begin in (b"", b"HTTP/1.1 200 ", ok + b"X: "):
            text = await self.answered_endlessly(begin, b"x")
            self.assertEqual(text, TOO_LONG)

    async def test_head_without_an_end_is_a_failure_over_tls(self) -> None:
        """The connection is closed though the server goes on."""
        authority = self.new_authority()
        self.client = self.new_client(load_trust(authority.certificate))
        server = Endless(b"HTTP/1.1 200 OK\r\n", b"X: x\r\n")
        factory: Any = Factory.forProtocol(lambda: server)
        text = await self.failure(await self.serve_tls(authority.server().read_bytes(), factory))
        self.assertEqual(text, TOO_LONG)
        await server.gone

    async def test_interim_answers_without_an_end_are_a_failure(self) -> None:
        """Some may come before an answer, such as 103 Early Hints."""
        text = await self.answered_endlessly(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        self.assertEqual(text, TOO_LONG)

    async def test_interim_answers_are_passed_over(self) -> None:
        """A few of them, and a long head, are no fault."""
        head = b"HTTP/1.1 102 Processing\r\n\r\n" * 10 + b"HTTP/1.1 200 OK\r\n"
        head += (b"X: " + b"x" * 900 + b"\r\n") * 60 + b"Content-Length: 1000000\r\n\r\n"
        server = Endless(head, b"x")
        reply = await self.get(await self.serve(Factory.forProtocol(lambda: server)))
        self.assertEqual((reply.status, reply.complete), (200, False))
        await server.gone

    async def test_chunks_without_an_end_are_a_failure(self) -> None:
        """Trailers, chunk extensions, and a chunk's size that goes on and on."""
        begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        text = await self.answered_endlessly(begin + b"0\r\n", b"X: x\r\n")
        self.assertNotIn("no answer within", text)
        await self.answered_endlessly(begin + b"1;", b"x")
        text = await self.answered_endlessly(begin, b"1;" + b"x" * 900 + b"\r\nx\r\n")
        self.assertEqual(text, TOO_LONG)

    async def test_smallest_chunks_are_a_body(self) -> None:
        """A body of single bytes is cut only where any other is."""
        begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        server = Endless(begin, b"1\r\nx\r\n")
        reply = await self.get(await self.serve(Factory.forProtocol(lambda: server)))
        self.assertEqual((len(reply.body), reply.complete), (MAX_BODY_BYTES, False))
        await server.gone

    async def test_unreachable_peer_is_a_failure(self) -> None:
        """No one listens; an invalid name; an unknown name."""
        port: Any = await cast(Any, TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")).listen(
            self.site
        )
        number = port.getHost().port
        await port.stopListening()
        self.assertIn("refused", await self.failure(f"http://127.0.0.1:{number}/"))
        await self.failure("http://a..b/")

    async def test_cancelled_request_closes_its_connection(self) -> None:
        """A caller that gives up leaves nothing open."""
        asking = ensureDeferred(self.get(await self.serve() + "/never"))
        await self.peer.arrived
        asking.cancel()
        await self.assertFailure(asking, CancelledError)
        await self.peer.gone

    async def test_close_fails_what_is_in_flight(self) -> None:
        """At the stop a waiting request is a failure, and later ones are too."""
        url = await self.serve()
        asking = ensureDeferred(self.get(url + "/never"))
        await self.peer.arrived
        await self.client.close()
        await self.assertFailure(asking, OutgoingFailed)
        await self.failure(url)
        await self.peer.gone

    async def test_connections_are_bounded(self) -> None:
        """Requests above the bound wait for a connection, and none is lost."""
        self.client = self.new_client(TrustRoots(), max_connections=3)
        url = await self.serve()
        replies = await gatherResults([ensureDeferred(self.get(url)) for _ in range(50)])
        self.assertEqual([reply.status for reply in replies], [200] * 50)
        self.assertEqual(self.site.opened, 3)

    async def test_request_is_not_sent_with_little_time_left(self) -> None:
        """Half the time may go by in waiting for a connection, the rest is the peer's."""
        self.client = self.new_client(TrustRoots(), max_connections=1)
        url = await self.serve()
        first = ensureDeferred(self.get(url + "/never", timeout_s=0.4))
        await self.peer.arrived
        with self.assertRaises(TimedOut) as caught:
            await self.get(url, timeout_s=0.4)
        self.assertIn("no connection was free", str(caught.exception))
        await self.assertFailure(first, TimedOut)
        self.assertEqual(len(self.peer.seen), 1)

    async def test_wait_for_a_turn_is_apart_from_the_time_of_the_peer(self) -> None:
        """If the caller asks for it: of many that queue, none needs to try again and again."""
        self.client = self.new_client(TrustRoots(), max_connections=1)
        url = await self.serve()
        first = ensureDeferred(self.get(url + "/never", timeout_s=0.4))
        await self.peer.arrived
        self.assertEqual((await self.get(url, timeout_s=0.3, turn_s=5)).status, 200)
        await self.assertFailure(first, TimedOut)

    async def test_a_turn_whose_time_is_over_takes_no_connection(self) -> None:
        """As after a pause of this process; the next request finds the connection free."""
        self.client = self.new_client(TrustRoots(), max_connections=1)
        url = await self.serve()
        first = ensureDeferred(self.get(url + "/never", timeout_s=0.4))
        await self.peer.arrived
        with self.assertRaises(TimedOut):
            await self.get(url, turn_s=-0.001)
        await self.assertFailure(first, TimedOut)
        self.assertEqual((await self.get(url)).status, 200)

    async def test_extra_root_is_trusted(self) -> None:
        """A peer whose certificate comes from ``ca_file``."""
        authority = self.new_authority()
        url = await self.serve_tls(authority.server().read_bytes())
        self.client = self.new_client(load_trust(authority.certificate))
        self.assertEqual((await self.get(url)).status, 200)

    async def test_unknown_root_is_refused(self) -> None:
        """An untrusted certificate ends the connection before the request is sent."""
        url = await self.serve_tls(self.new_authority().server().read_bytes())
        self.client = self.new_client(load_trust(self.new_authority("other").certificate))
        self.assertIn("certificate verify failed", await self.failure(url))
        self.assertEqual(self.peer.seen, [])

    async def test_wrong_name_and_expired_certificate_are_refused(self) -> None:
        """The certificate must be for the host asked for, and valid now."""
        authority = self.new_authority()
        self.client = self.new_client(load_trust(authority.certificate))
        await self.failure(
            await self.serve_tls(authority.server(hosts=("other.example",)).read_bytes())
        )
        await self.failure(await self.serve_tls(authority.server(validity=EXPIRED).read_bytes()))
        self.assertEqual(self.peer.seen, [])


class TrustFileTests(TestCase):
    """``ca_file``."""

    def test_unusable_file_is_one_problem(self) -> None:
        """A file that is missing, a folder, or has no certificate."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "empty.pem").write_text("")
        (folder / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----")
        for name in ("missing.pem", ".", "empty.pem", "bad.pem"):
            problems = self.assertRaises(ConfigError, load_trust, folder / name).lines
            self.assertEqual(len(problems), 1)
            self.assertTrue(problems[0].startswith("ca_file: "), problems)
