"""The CONNECT proxy: a real proxy program, and scripted ones that misbehave."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as twisted_reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from middlewared.errors import ConfigError
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.interface import OutgoingFailed
from middlewared.outgoing.proxy import Proxy, ProxyEndpoints, ProxyFailed
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.simulator.certificates import Authority

reactor = cast(Any, twisted_reactor)
PASSWORD = "pass:wörd/@"
PASSWORD_ENCODED = "pass%3Aw%C3%B6rd%2F%40"


class ProxyUrlTests(SynchronousTestCase):
    """``[http_proxy] url``."""

    def test_credentials_are_percent_decoded(self) -> None:
        """User and password may hold any character."""
        proxy = Proxy.from_url("http://us%20er:p%40ss@proxy.example:3128")
        self.assertEqual((proxy.host, proxy.port), ("proxy.example", 3128))
        self.assertEqual(proxy.authorization, b"Basic dXMgZXI6cEBzcw==")

    def test_without_user_nothing_is_shown(self) -> None:
        """A proxy without credentials gets no Proxy-Authorization."""
        self.assertIsNone(Proxy.from_url("http://10.0.0.1:8080").authorization)

    def test_wrong_url_is_a_problem_without_the_password(self) -> None:
        """Each unusable URL is one problem, which never quotes it."""
        for url in (
            "https://u:secret@host:1",
            "http://u:secret@host",
            "http://u:secret@host:99999",
            "http://u:secret@:80",
            "http://u:secret@host:80/path",
            "http://u:secret@[::1:80",
            "u:secret@host:80",
        ):
            problems = self.assertRaises(ConfigError, Proxy.from_url, url).lines
            self.assertEqual(len(problems), 1)
            self.assertTrue(problems[0].startswith("[http_proxy] url: "), problems)
            self.assertNotIn("secret", problems[0])

    def test_secrets_stay_out_of_the_text_form(self) -> None:
        """The credentials are in no repr."""
        proxy = Proxy.from_url("http://user:secret@host:80")
        self.assertNotIn("dXNlcjpzZWNyZXQ", repr(proxy))


class ScriptedProxy(Protocol):
    """Keeps what the client sends and answers as the test asks."""

    def __init__(self, answer: Callable[[ScriptedProxy, bytes], None]) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        """Answer once the head is there."""
        self.received += data
        if self.received.endswith(b"\r\n\r\n"):
            self._answer(self, self.received)

    def write(self, data: bytes) -> None:
        cast(Any, self.transport).write(data)

    def close(self) -> None:
        cast(Any, self.transport).loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Notify the test."""
        self.lost.callback(None)


class Above(Protocol):
    """The protocol that wants the tunnel."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Notify the test."""
        self.lost.callback(None)


def ours(events: Sequence[Any]) -> list[Any]:
    """The levels of our own log events."""
    return [e["log_level"] for e in events if e["log_namespace"].startswith("middlewared.")]


class ScriptedProxyTests(TestCase):
    """What proxies answer, in any pieces, and the end of the connection."""

    async def proxied(self, answer: Callable[[ScriptedProxy, bytes], None]) -> ProxyEndpoints:
        """Endpoints through a proxy that answers so; its protocols are in ``self.proxies``."""
        self.proxies: list[ScriptedProxy] = []

        def build() -> ScriptedProxy:
            self.proxies.append(ScriptedProxy(answer))
            return self.proxies[-1]

        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            cast(Any, Factory.forProtocol(cast(Any, build)))
        )
        self.addCleanup(port.stopListening)
        proxy = Proxy.from_url(f"http://user:secret@127.0.0.1:{port.getHost().port}")
        return ProxyEndpoints(reactor=reactor, proxy=proxy, timeout_s=self.connect_timeout_s)

    connect_timeout_s = 10.0

    async def connect(self, endpoints: ProxyEndpoints) -> Above:
        factory = Factory.forProtocol(Above)
        endpoint: Any = endpoints("api.example", 443)
        return cast(Above, await endpoint.connect(factory))

    async def failure(self, answer: Callable[[ScriptedProxy, bytes], None]) -> str:
        """The text of the failure, after both ends of the connection are gone."""
        endpoints = await self.proxied(answer)
        with capturedLogs() as events, self.assertRaises(ProxyFailed) as caught:
            await self.connect(endpoints)
        if self.proxies:
            await self.proxies[0].lost
        self.assertIsInstance(caught.exception, ConnectError)
        self.assertEqual(ours(events), [LogLevel.warn])
        self.assertNotIn("secret", str(events) + str(caught.exception))
        return str(caught.exception)

    async def test_tunnel_carries_bytes_both_ways(self) -> None:
        """The answer may come byte by byte; what follows it belongs to the tunnel."""

        def answer(proxy: ScriptedProxy, request: bytes) -> None:
            for byte in b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n":
                proxy.write(bytes([byte]))
            proxy.write(b"hello")
            proxy.close()

        above = await self.connect(await self.proxied(answer))
        await above.lost
        self.assertEqual(above.received, b"hello")
        self.assertEqual(
            self.proxies[0].received,
            b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n"
            b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\r\n",
        )

    async def test_refusal_is_reported_with_its_status(self) -> None:
        """403 and its like: the tunnel is refused."""
        text = await self.failure(lambda proxy, _: proxy.write(b"HTTP/1.0 403 No\r\n\r\nno"))
        self.assertIn("(403)", text)

    async def test_wrong_credentials_are_distinguished(self) -> None:
        """407: the operator must check user and password."""
        text = await self.failure(lambda proxy, _: proxy.write(b"HTTP/1.1 407 \r\n\r\n"))
        self.assertIn("credentials (407)", text)

    async def test_garbage_is_not_quoted(self) -> None:
        """What is not HTTP is a failure, and stays out of our log."""
        text = await self.failure(lambda proxy, _: proxy.write(b"SSH-2.0-x\r\n\r\n"))
        self.assertNotIn("SSH", text)

    async def test_endless_answer_is_cut(self) -> None:
        """A head without an end does not grow in memory."""
        text = await self.failure(lambda proxy, _: proxy.write(b"HTTP/1.1 200 " + b"x" * 100_000))
        self.assertIn("without an end", text)

    async def test_closing_proxy_fails_the_connect(self) -> None:
        """A proxy that hangs up."""
        self.assertIn("closed", await self.failure(lambda proxy, _: proxy.close()))

    async def test_unreachable_proxy_fails_the_connect(self) -> None:
        """No one listens at the proxy's address."""
        proxy = Proxy("127.0.0.1", await self.unused_port())
        with self.assertRaises(ProxyFailed) as caught:
            await self.connect(ProxyEndpoints(reactor=reactor, proxy=proxy))
        self.assertIn("cannot be reached", str(caught.exception))

    async def test_stalling_proxy_is_timed_out(self) -> None:
        """A proxy that never answers is left at the time-out."""
        self.connect_timeout_s = 0.2
        self.assertIn("within 0.2 s", await self.failure(lambda proxy, _: None))

    async def test_cancelled_connect_closes_the_connection(self) -> None:
        """A caller that gives up leaves nothing open."""
        asked: Deferred[None] = Deferred()
        endpoints = await self.proxied(lambda proxy, _: asked.callback(None))
        connecting = ensureDeferred(self.connect(endpoints))
        connecting.addErrback(lambda failure: None)
        await asked
        connecting.cancel()
        await self.proxies[0].lost

    async def test_log_reports_when_it_works_again(self) -> None:
        """The same trouble is logged once, its end too."""
        answers = [b"503 a", b"503 b", b"200 c", b"200 d"]
        endpoints = await self.proxied(
            lambda proxy, _: proxy.write(b"HTTP/1.1 %b\r\n\r\n" % answers.pop(0))
        )
        with capturedLogs() as events:
            for _ in range(2):
                with self.assertRaises(ProxyFailed):
                    await self.connect(endpoints)
            for _ in range(2):
                above = await self.connect(endpoints)
                cast(Any, above.transport).abortConnection()
                await above.lost
        for proxy in self.proxies:
            await proxy.lost
        self.assertEqual(ours(events), [LogLevel.warn, LogLevel.info])

    async def unused_port(self) -> int:
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            cast(Any, Factory.forProtocol(Protocol))
        )
        number: int = port.getHost().port
        await port.stopListening()
        return number


PROXY_PROGRAM = """
import sys, proxy
with proxy.Proxy(sys.argv[1:]) as running:
    print("port", running.flags.port, flush=True)
    sys.stdin.read()
"""


class ProxyProgram(ProcessProtocol):
    """proxy.py as a process; ``listening`` fires with its port."""

    def __init__(self) -> None:
        self.listening: Deferred[int] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._output = b""

    def outReceived(self, data: bytes) -> None:
        """Look for the line that names the port."""
        self._output += data
        found = re.search(rb"^port (\d+)$", self._output, re.MULTILINE)
        if found and not self.listening.called:
            self.listening.callback(int(found[1]))

    errReceived = outReceived

    def stop(self) -> Deferred[None]:
        """Let the program end and wait for it."""
        cast(Any, self.transport).closeStdin()
        return self.ended

    def processEnded(self, reason: Failure) -> None:
        """The exit code does not matter."""
        if not self.listening.called:
            self.listening.errback(RuntimeError(self._output.decode()))
        self.ended.callback(None)


class Answering(Resource):
    """Writes hello, and who asked."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """Answer."""
        return b"hello"


class RealProxyTests(TestCase):
    """A real proxy program in front of a TLS server."""

    async def start_proxy(self, *options: str) -> int:
        program = ProxyProgram()
        arguments = ["--hostname", "127.0.0.1", "--port", "0", "--threaded"]
        reactor.spawnProcess(
            program,
            sys.executable,
            [sys.executable, "-c", PROXY_PROGRAM, *arguments, "--num-acceptors", "1", *options],
            env={**os.environ, "HOME": self.folder},
            path=self.folder,
        )
        self.addCleanup(program.stop)
        return await program.listening

    async def serve_tls(self) -> str:
        """The URL of a TLS server; its root is ``self.authority``."""
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = Authority(folder=Path(self.folder))
        certificate = ssl.PrivateCertificate.loadPEM(self.authority.server().read_bytes())
        endpoint = SSL4ServerEndpoint(reactor, 0, certificate.options(), interface="127.0.0.1")
        port = await endpoint.listen(cast(Any, Site(cast(Any, Answering()))))
        self.addCleanup(port.stopListening)
        return f"https://localhost:{port.getHost().port}/"

    def client_through(self, proxy_url: str) -> PooledHttpClient:
        client = PooledHttpClient(
            reactor=reactor,
            endpoints=ProxyEndpoints(reactor=reactor, proxy=Proxy.from_url(proxy_url)),
            tls=ClientTLS(trust=load_trust(self.authority.certificate)),
        )
        self.addCleanup(lambda: ensureDeferred(client.close()))
        return client

    async def test_https_goes_through_a_proxy_without_password(self) -> None:
        """TLS to the peer's own certificate, inside the tunnel."""
        url = await self.serve_tls()
        client = self.client_through(f"http://127.0.0.1:{await self.start_proxy()}")
        reply = await client.request("GET", url, headers={}, timeout_s=10)
        self.assertEqual(reply.body, b"hello")

    async def test_https_goes_through_a_proxy_with_password(self) -> None:
        """The right password opens the tunnel; a wrong one is reported as such."""
        url = await self.serve_tls()
        port = await self.start_proxy("--basic-auth", f"user:{PASSWORD}")
        good = self.client_through(f"http://user:{PASSWORD_ENCODED}@127.0.0.1:{port}")
        reply = await good.request("GET", url, headers={}, timeout_s=10)
        self.assertEqual(reply.body, b"hello")
        bad = self.client_through(f"http://user:wrong@127.0.0.1:{port}")
        with self.assertRaises(OutgoingFailed) as caught:
            await bad.request("GET", url, headers={}, timeout_s=10)
        self.assertIn("407", str(caught.exception))
