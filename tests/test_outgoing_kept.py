"""Kept connections, and how far unanswered requests got, on real sockets."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.interface import (
    AnswerTimes,
    Dropped,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TimedOut,
    Unwanted,
)
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, TrustRoots, load_trust
from middlewared.simulator.certificates import Authority
from middlewared.simulator.listening import ServerTLS
from tests.waiting import until

reactor = cast(Any, twisted_reactor)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer(Protocol):
    """One connection to a server that answers each request as the test specifies."""

    transport: Any

    def __init__(self, server: Server) -> None:
        self.server = server

    def connectionMade(self) -> None:
        self.server.peers.append(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer each complete request."""
        self.server.asked.append(self)
        self.server.answer(self)

    def connectionLost(self, reason: object = None) -> None:
        self.server.gone.append(self)


class Server(Factory):
    """Keeps all its connections, in order of arrival."""

    noisy = False

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.asked: list[Peer] = []
        self.gone: list[Peer] = []
        self.answer: Callable[[Peer], None] = lambda peer: peer.transport.write(OK)

    async def end(self) -> None:
        """Close all connections."""
        for peer in self.peers:
            if peer not in self.gone:
                peer.transport.abortConnection()
        await until(lambda: len(self.gone) == len(self.peers))

    def buildProtocol(self, addr: object) -> Peer:
        return Peer(self)


class KeptTestCase(TestCase):
    """A server and a client."""

    is_secure = False

    async def setUp(self) -> None:  # type: ignore[override]
        """Start the server."""
        self.server = Server()
        self.progress = Progress()
        trust, factory = TrustRoots(), cast(Factory, self.server)
        if self.is_secure:
            folder = Path(tempfile.mkdtemp())
            self.addCleanup(shutil.rmtree, folder)
            authority = Authority(folder=folder)
            trust = load_trust(authority.certificate)
            factory = cast(Factory, ServerTLS(authority.server()).wrap(self.server))
        self.tls = ClientTLS(trust=trust)
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        self.addCleanup(lambda: ensureDeferred(self.server.end()))
        scheme = "https" if self.is_secure else "http"
        self.url = f"{scheme}://127.0.0.1:{port.getHost().port}/"
        self.client = self.new_client()

    def new_client(self, **options: Any) -> PooledHttpClient:
        client = PooledHttpClient(
            reactor=reactor, endpoints=DirectEndpoints(reactor), tls=self.tls, **options
        )
        self.addCleanup(lambda: ensureDeferred(client.close()))
        return client

    def asking(self, **options: Any) -> Deferred[HttpResponse]:
        asked: dict[str, Any] = {"headers": {}, "body": b"push", "timeout_s": 5.0} | options
        return ensureDeferred(
            self.client.request("POST", self.url, progress=self.progress, **asked)
        )


class KeptTests(KeptTestCase):
    """Over plain TCP; below, over TLS."""

    async def test_latest_sign_of_life_is_preferred(self) -> None:
        """The connection that answered last is used first."""
        self.server.answer = lambda _: None
        both = gatherResults([self.asking(), self.asking()])
        await until(lambda: len(self.server.asked) == 2)
        first, second = self.server.asked
        second.transport.write(OK)
        await until(lambda: self.client.connection_states(self.url)["ready"] == 2)
        await deferLater(reactor, 0.05)
        first.transport.write(OK)
        await both
        self.server.answer = lambda peer: peer.transport.write(OK)
        for _ in range(3):
            await self.asking()
        self.assertEqual(self.server.asked[2:], [first] * 3)

    async def test_connection_that_the_peer_has_closed_is_not_used(self) -> None:
        """Even before this process has read the end."""
        await self.asking()
        (peer,) = self.server.peers
        handle = peer.transport.transport if self.is_secure else peer.transport
        handle.getHandle().shutdown(socket.SHUT_WR)
        reply = await self.asking()
        self.assertEqual((reply.status, len(self.server.peers)), (200, 2))

    async def test_connection_that_ends_before_the_request_has_left(self) -> None:
        """The peer closes it after it was checked: none of the request was sent."""
        await self.asking()
        (peer,) = self.server.peers
        handle = peer.transport.transport if self.is_secure else peer.transport

        def closing() -> bool:
            handle.getHandle().shutdown(socket.SHUT_WR)
            return True

        await self.assertFailure(self.asking(wanted=closing), Dropped)
        self.assertIsNone(self.progress.sent_at)
        self.assertEqual(len(self.server.asked), 1)

    async def test_connection_does_not_rest_for_long(self) -> None:
        """A NAT gateway may drop it silently."""
        self.client = self.new_client(rest_s=0.1)
        await self.asking()
        await until(lambda: len(self.server.gone) == 1)
        await self.asking()
        self.assertEqual(len(self.server.peers), 2)

    async def test_warm_connection_is_there_before_the_first_request(self) -> None:
        """The request uses it; it is replaced when it is closed or was idle."""
        self.client = self.new_client(rest_s=1.0)
        self.client.keep_warm(self.url)
        await until(lambda: self.client.connection_states(self.url)["ready"] == 1)
        await self.asking()
        self.assertEqual(len(self.server.peers), 1)
        await until(lambda: len(self.server.peers) == 3)
        self.server.peers[-1].transport.abortConnection()
        await until(lambda: len(self.server.peers) == 4)

    async def keep_two(self) -> None:
        """Two idle connections."""
        self.server.answer = lambda _: None
        both = gatherResults([self.asking(), self.asking()])
        await until(lambda: len(self.server.asked) == 2)
        for peer in self.server.asked:
            peer.transport.write(OK)
        await both

    async def test_silent_connection_casts_doubt_on_those_that_rest(self) -> None:
        """They are closed before the next request tries them."""
        await self.keep_two()
        self.server.answer = lambda _: None
        began = reactor.seconds()
        await self.assertFailure(self.asking(answer=AnswerTimes(5.0)), TimedOut)
        self.assertTrue(0.69 < reactor.seconds() - began < 2)
        await until(lambda: len(self.server.gone) == 2)

    async def test_sign_of_life_removes_the_doubt(self) -> None:
        """An answer on another connection shows that the path works."""
        await self.keep_two()
        silent = self.asking(answer=AnswerTimes(5.0))
        await until(lambda: len(self.server.asked) == 3)
        self.server.answer = lambda peer: peer.transport.write(OK)
        await self.asking()
        await self.assertFailure(silent, TimedOut)
        self.assertEqual(self.client.connection_states(self.url)["ready"], 1)
        await self.asking()
        self.assertEqual(len(self.server.peers), 2)

    async def test_first_byte_ends_the_doubt(self) -> None:
        """After that, the answer has its full time."""
        await self.asking()
        self.server.answer = lambda peer: peer.transport.write(OK[:5])
        asking = self.asking(answer=AnswerTimes(5.0))
        await deferLater(reactor, 0.9)
        self.server.peers[0].transport.write(OK[5:])
        self.assertEqual((await asking).status, 200)

    async def test_states_of_connections(self) -> None:
        """Connecting, ready, and none."""
        self.assertEqual(set(self.client.connection_states(self.url).values()), {0})
        asking = self.asking()
        self.assertEqual(self.client.connection_states(self.url)["connecting"], 1)
        await asking
        states = {"connecting": 0, "ready": 1, "draining": 0}
        self.assertEqual(self.client.connection_states(self.url), states)
        await self.client.close()
        self.assertEqual(set(self.client.connection_states(self.url).values()), {0})

    async def test_unwanted_request_leaves_its_connection_to_the_next(self) -> None:
        """Nothing was sent on it."""
        with self.assertRaises(Unwanted):
            await self.asking(wanted=lambda: False)
        self.assertIsNone(self.progress.sent_at)
        self.assertEqual(self.client.connection_states(self.url)["ready"], 1)
        await self.asking()
        self.assertEqual((len(self.server.peers), len(self.server.asked)), (1, 1))

    async def test_whole_answer_reports_when_the_request_was_sent(self) -> None:
        """On a new connection and on a kept one."""
        for _ in range(2):
            began = reactor.seconds()
            await self.asking(answer=AnswerTimes(2.0))
            assert self.progress.sent_at is not None
            self.assertTrue(began <= self.progress.sent_at <= reactor.seconds())
            self.assertIsNone(self.progress.partial)

    async def test_closed_after_the_request(self) -> None:
        """All of it was sent, but no status came."""
        self.server.answer = lambda peer: peer.transport.loseConnection()
        await self.assertFailure(self.asking(), Dropped)
        self.assertIsNotNone(self.progress.sent_at)
        self.assertIsNone(self.progress.partial)

    async def test_status_line_is_enough(self) -> None:
        """The status is kept, even if nothing else came."""
        self.server.answer = answer_and_close(b"HTTP/1.1 404 Not Found\r\nContent-")
        await self.assertFailure(self.asking(), OutgoingFailed)
        assert self.progress.partial is not None
        self.assertEqual(self.progress.partial.status, 404)
        self.assertFalse(self.progress.partial.complete)

    async def test_interim_answer_is_no_status(self) -> None:
        """100 is no status of the request."""
        self.server.answer = answer_and_close(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2")
        await self.assertFailure(self.asking(), OutgoingFailed)
        self.assertIsNotNone(self.progress.sent_at)
        self.assertIsNone(self.progress.partial)

    async def test_status_after_interim_answers(self) -> None:
        """It counts; a line that looks like a status inside garbage does not."""
        early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        self.server.answer = answer_and_close(early * 2 + b"HTTP/1.1 404 Not Found\r\n")
        await self.assertFailure(self.asking(), OutgoingFailed)
        assert self.progress.partial is not None
        self.assertEqual(self.progress.partial.status, 404)
        self.server.answer = answer_and_close(b"220 mail\r\nHTTP/1.1 404 Not Found\r\n")
        await self.assertFailure(self.asking(), OutgoingFailed)
        self.assertIsNone(self.progress.partial)

    async def test_body_that_stalls(self) -> None:
        """The status, the headers and the part that came are kept: time-out or cancelled."""
        head = b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 10\r\n\r\nhalf"
        self.server.answer = lambda peer: peer.transport.write(head)
        await self.assertFailure(self.asking(answer=AnswerTimes(0.2)), TimedOut)
        self.assert_half()
        asking = self.asking(answer=AnswerTimes(5.0))
        self.assertIsNone(self.progress.partial)
        await until(lambda: len(self.server.asked) == 2)
        await deferLater(reactor, 0.05)
        asking.cancel()
        await self.assertFailure(asking, CancelledError)
        self.assert_half()

    def assert_half(self) -> None:
        partial = self.progress.partial
        assert partial is not None
        self.assertEqual((partial.status, partial.body), (503, b"half"))
        self.assertEqual(partial.header("Retry-After"), "3")

    async def test_cancelled_request_that_was_sent(self) -> None:
        """The caller sees that it was sent."""
        self.server.answer = lambda _: None
        asking = self.asking()
        await until(lambda: len(self.server.asked) == 1)
        asking.cancel()
        await self.assertFailure(asking, CancelledError)
        self.assertIsNotNone(self.progress.sent_at)

    async def test_request_that_was_not_sent(self) -> None:
        """It was cancelled while it connected."""
        asking = self.asking()
        asking.cancel()
        await self.assertFailure(asking, CancelledError)
        self.assertIsNone(self.progress.sent_at)

    async def test_answer_before_the_request_was_read(self) -> None:
        """It counts, and the connection is not used again."""

        def refuse(peer: Peer) -> None:
            peer.transport.pauseProducing()
            peer.transport.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

        self.server.answer = refuse
        reply = await self.asking(body=b"x" * 50_000_000)
        self.assertEqual((reply.status, reply.complete), (413, True))
        self.assertEqual(self.client.connection_states(self.url)["ready"], 0)

    async def test_answers_without_a_length(self) -> None:
        """The end of the connection ends the body, and no connection is kept."""
        for head in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n"):
            self.server.answer = answer_and_close(head + b"whole")
            reply = await self.asking()
            self.assertEqual((reply.body, reply.complete), (b"whole", True))
            self.assertEqual(self.client.connection_states(self.url)["ready"], 0)

    async def test_peer_that_wants_to_close(self) -> None:
        """The connection is closed though the peer does not."""
        answer = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        self.server.answer = lambda peer: peer.transport.write(answer)
        self.assertEqual((await self.asking()).body, b"ok")
        await until(lambda: len(self.server.gone) == 1)

    async def test_idle_connection_that_gets_an_answer_is_closed(self) -> None:
        """Such as 408 of a server that is about to close."""
        await self.asking()
        self.server.peers[0].transport.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await until(lambda: len(self.server.gone) == 1)
        self.assertEqual((await self.asking()).status, 200)

    async def test_request_larger_than_the_system_takes(self) -> None:
        """A peer that does not read: not all of it was sent."""
        self.server.answer = lambda peer: peer.transport.pauseProducing()
        asking = self.asking(body=b"x" * 50_000_000, answer=AnswerTimes(0.5))
        await self.assertFailure(asking, TimedOut)
        self.assertIsNone(self.progress.sent_at)

    async def test_close_ends_though_the_peer_does_not(self) -> None:
        """A dead path does not delay the end of the daemon."""
        await self.asking()
        (peer,) = self.server.peers
        peer.transport.pauseProducing()
        await self.client.close()
        self.assertEqual(self.server.gone, [])


class KeptOverTlsTests(KeptTests):
    """The same, where a handshake comes first."""

    is_secure = True

    async def test_wrong_name_is_sent_nothing(self) -> None:
        """No request follows, although the handshake was completed."""
        with tempfile.TemporaryDirectory() as folder:
            authority = Authority(folder=Path(folder))
            self.tls = ClientTLS(trust=load_trust(authority.certificate))
            certificate = authority.server(hosts=("other.example",))
            endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            factory = cast(Factory, ServerTLS(certificate).wrap(self.server))
            port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        self.url = f"https://127.0.0.1:{port.getHost().port}/"
        self.client = self.new_client()
        await self.assertFailure(self.asking(), OutgoingFailed)
        self.assertEqual((self.progress.sent_at, self.server.asked), (None, []))


def answer_and_close(answer: bytes) -> Callable[[Peer], None]:
    """A server that breaks off after ``answer``."""

    def do(peer: Peer) -> None:
        peer.transport.write(answer)
        peer.transport.loseConnection()

    return do
