"""
A process that was stopped blames no peer: what arrived meanwhile is read first.

The stop is a reactor that is blocked in a call from a thread. Twisted makes such calls
right before it looks for timers, so everything that fell due meanwhile fires before any
socket is read, as after SIGCONT.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from middlewared.database.postgres_database import PostgresDatabase
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, TrustRoots
from middlewared.push.http2 import frames, header_blocks
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.exchange import OK, Exchange
from middlewared.service.dependency_watch import DEADLINE_S, DependencyWatch
from middlewared.waiting import with_fair_timeout
from tests.contracts.devices import ACCOUNT, a_device
from tests.servers.postgres import shared_server

reactor = cast(Any, _reactor)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def stop_process(seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Let this process do nothing for some seconds, in which a peer does ``meanwhile``."""

    def stopped() -> None:
        meanwhile()
        time.sleep(seconds)

    reactor.callFromThread(stopped)


class Received(Protocol):
    """A peer of ours in the same process; fires when something has arrived."""

    def __init__(self) -> None:
        self.arrived: Deferred[None] = Deferred()

    def dataReceived(self, _: bytes) -> None:
        if not self.arrived.called:
            self.arrived.callback(None)


class PauseTests(TestCase):
    """Each peer answers while this process is stopped for longer than its time-out."""

    def adopt(self, protocol: Any) -> socket.socket:
        """Connect ``protocol`` to a socket, which is the peer's end."""
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        ours.setblocking(False)
        factory = Factory()
        factory.protocol = lambda: protocol
        connection = reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
        ours.close()
        self.addCleanup(connection.abortConnection)
        return theirs

    async def test_a_deadline_reads_first(self) -> None:
        """A deadline that holds through a pause takes what has arrived all the same."""
        reply = Received()
        theirs = self.adopt(reply)
        arrived = with_fair_timeout(reply.arrived, 0.1, reactor, slices=1)
        stop_process(0.5, lambda: theirs.send(b"reply"))
        await arrived

    async def test_database_that_answered_is_not_dropped(self) -> None:
        """A look-up gets its row, from the connection that it was sent on."""
        server = shared_server()
        database = PostgresDatabase(
            url=server.url(server.database_for(self)), reactor=reactor, pool_size=1, timeout_s=0.4
        )
        registry = PostgresRegistry(database=database)
        await registry.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(registry.stop()))
        await registry.register(a_device())
        backend = "select pg_backend_pid()"
        before = await registry._select(backend)
        finding = [Deferred.fromCoroutine(registry.find(ACCOUNT)) for _ in range(3)]
        stop_process(1.5)
        for found in finding:
            self.assertEqual(await found, a_device())
        self.assertEqual(await registry._select(backend), before)

    async def test_dependency_that_answered_is_up(self) -> None:
        """A ping whose answer came while we were stopped was in time."""
        server = shared_server()
        database = PostgresDatabase(
            url=server.url(server.database_for(self)), reactor=reactor, pool_size=1
        )
        registry = PostgresRegistry(database=database)
        await registry.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(registry.stop()))
        watch = DependencyWatch(clock=reactor, pings={"database": registry.ping})
        watch.start()
        stop_process(DEADLINE_S + 1)
        await watch.stop()
        self.assertIs(registry.up, True)

    async def test_http_answer_is_taken(self) -> None:
        """A provider that answered a stopped process is not asked again."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        listener.settimeout(30)
        client = PooledHttpClient(
            reactor=reactor,
            endpoints=DirectEndpoints(reactor),
            tls=ClientTLS(trust=TrustRoots()),
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        asking = Deferred.fromCoroutine(client.request("GET", url, headers={}, timeout_s=1.0))

        def take_request() -> socket.socket:
            peer, _ = listener.accept()
            peer.recv(65536)
            return peer

        peer = await deferToThread(take_request)
        self.addCleanup(peer.close)
        stop_process(1.5, lambda: peer.send(ANSWER))
        self.assertEqual((await asking).body, b"ok")

    async def test_apple_that_answered_is_not_silent(self) -> None:
        """The answer is read before the tick that would give the connection up."""
        connection = Http2Connection(
            clock=reactor, on_capacity=lambda: None, on_unprocessed=lambda exchange: None
        )
        theirs = self.adopt(connection)
        theirs.send(frames.settings({}))
        await connection.ready
        push = Exchange(header_block=b"\x83", body=b"{}", deadline=reactor.seconds() + 60)
        connection.send(push)
        connection.liveness._silent_ticks = 3  # as after three quarters of a second

        def answer() -> None:
            whole = frames.END_HEADERS | frames.END_STREAM
            theirs.send(frames.pack(frames.HEADERS, whole, 1, header_blocks.STATUS_200))

        stop_process(1.0, answer)
        self.assertEqual(await push.ended, OK)
        self.assertEqual(connection.state, "ready")
