"""Paths that are long, dead, or end at the wrong peer: real sockets, TLS and HTTP/2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent

from middlewared.outgoing.tcp_endpoints import DirectEndpoint, DirectEndpoints
from middlewared.push.apns.provider import ApnsProvider
from middlewared.push.interface import Accepted, ConfigFault, Rejected
from middlewared.simulator.apple.faults import Behaviour, GoAway
from middlewared.simulator.listening import ListeningSocket, ServerTLS
from middlewared.simulator.scripts import Delay, HangUp, Stall
from tests.apns import APP, OTHER_TOKEN, AppleTestCase, by_way_of, call_push, reactor
from tests.waiting import until


def ready(provider: ApnsProvider, environment: str = "production") -> int:
    """How many connections are ready for pushes."""
    return provider.connection_states()[environment, "ready"]


class LongPathTests(AppleTestCase):
    """A round trip of 560 ms, as over a satellite."""

    connections = 1

    async def test_one_push_is_sent_once(self) -> None:
        """Even the first one, before the path is measured; the measurements are reported."""
        apple = await self.serve()
        relay = await self.relay(apple, delay_s=0.28)
        reported: list[tuple[str, float]] = []
        provider = self.provide(
            self.settings(apple.url, ""),
            endpoint=by_way_of(relay),
            on_round_trip=lambda *each: reported.append(each),
        )
        for _ in range(2):
            self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual(apple.record.received_count, 2)
        self.assertEqual((relay.accepted, apple.record.connection_count), (1, 1))
        ((environment, seconds),) = reported
        self.assertEqual(environment, "production")
        self.assertTrue(0.56 <= seconds < 1.5, seconds)


class DeadPathTests(AppleTestCase):
    """A firewall has dropped our connections: what is sent over them is lost."""

    connections = 4

    async def test_all_connections_are_dead(self) -> None:
        """It costs one wait, not four: after that every push uses a new connection."""
        apple = await self.serve()
        relay = await self.relay(apple)
        settings = self.settings(apple.url, "")
        providers = [self.provide(settings, endpoint=by_way_of(relay)) for _ in range(2)]
        await until(lambda: sum(map(ready, providers)) == 8)
        for provider in providers:
            await provider.send(call_push(OTHER_TOKEN))
        await deferLater(reactor, 0.3)  # a connection with a fresh sign of life is not checked
        relay.forget()
        since = reactor.seconds()
        result = await providers[0].send(call_push())
        self.assert_uncertain(result, "connection silent", since=since)
        for provider in providers:
            self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertLess(reactor.seconds() - since, 2.0)
        await until(lambda: sum(map(ready, providers)) == 8)
        self.assertEqual(relay.accepted, 16)

    async def test_one_dead_connection_is_left_for_a_living_one(self) -> None:
        """Pushes that come while it is in doubt are not sent over it."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", connections=2))
        await until(lambda: ready(provider) == 2)
        apple.scripts.for_next(1, Stall(acknowledge_pings=False))
        since = reactor.seconds()
        sending = self.sending(provider, call_push())
        await deferLater(reactor, 0.7)
        for _ in range(3):
            self.assertEqual(await provider.send(call_push()), Accepted())
        self.assert_uncertain(await sending, "connection silent", since=since)

    async def test_a_slow_apple_is_no_dead_path(self) -> None:
        """Its connection answers PINGs: the push waits, and no other one is replaced."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", connections=2))
        await until(lambda: ready(provider) == 2)
        apple.scripts.for_next(1, Delay(2.6))
        self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual(apple.record.connection_count, 2)


class LogTests(AppleTestCase):
    """Why a connection was lost."""

    connections = 1

    async def test_each_loss_is_explained(self) -> None:
        """With the reason of the network, of Apple, or our own."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, ""))
        with capturedLogs() as events:
            for steps in (
                (HangUp(),),
                (GoAway(code=11, reason="Shutdown"), HangUp()),
                (Stall(acknowledge_pings=False),),
            ):
                await provider.send(call_push(OTHER_TOKEN))
                apple.scripts.for_next(1, *steps)
                await provider.send(call_push())
            await provider.send(call_push())
            apple.drop_connections()
            await until(lambda: apple.record.connection_count == 5)
        lines = [str(formatEvent(event)) for event in events if event["log_level"] >= LogLevel.info]
        lost = [line for line in lines if line.endswith("connecting again")]
        self.assertEqual(
            lost,
            [
                f"{APP} production: {why}; connecting again"
                for why in (
                    "closed by the peer",
                    'GOAWAY ENHANCE_YOUR_CALM {"reason": "Shutdown"}',
                    "connection silent",
                    "reset by the peer or the network",
                )
            ],
        )


class PeerTests(AppleTestCase):
    """What the peer offers."""

    connections = 1

    async def test_a_peer_without_http2(self) -> None:
        """A proxy that intercepts TLS, for one: a waiting call fails at once, with the reason."""
        url = await serve_tls(self, self.authority.server(name="proxy"))
        with capturedLogs() as events:
            provider = self.provide(self.settings(url, ""))
            result = await provider.send(call_push(wait_s=60))
        self.assertEqual(result, ConfigFault("peer did not choose HTTP/2 (h2 by ALPN)"))
        self.assertEqual(
            [str(formatEvent(e)) for e in events if e["log_level"] is LogLevel.error],
            [
                f"{APP} production: not connected: peer did not choose HTTP/2 (h2 by ALPN)",
                f"Apple refuses pushes of {APP}:"
                " peer did not choose HTTP/2 (h2 by ALPN) (production)",
            ],
        )

    async def test_a_header_list_beyond_the_peers_limit(self) -> None:
        """The push fails with a reason and is not sent; the connection stays (RFC 9113, 6.5.2)."""
        for limit, result in ((300, Rejected("header list larger than the peer takes")),):
            apple = await self.serve(behaviour=Behaviour(max_header_list_size=limit))
            provider = self.provide(self.settings(apple.url, ""))
            self.assertEqual(await provider.send(call_push()), result)
            self.assertEqual(apple.record.received_count, 0)
            self.assertEqual(ready(provider), 1)

    async def test_apples_own_limit_is_enough_for_any_push(self) -> None:
        """Even the longest token with a provider token stays below 8,000 octets."""
        apple = await self.serve(behaviour=Behaviour(max_header_list_size=8_000))
        provider = self.provide(self.settings(apple.url, "", credentials=self.by_key()))
        self.assertEqual(await provider.send(call_push("ab" * 100)), Accepted())


class TcpTests(AppleTestCase):
    """The underlying TCP connections."""

    async def test_nothing_waits_for_an_acknowledgement(self) -> None:
        """TCP_NODELAY: a push is not delayed while an earlier one is unacknowledged."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, ""), endpoint=DirectEndpoints(reactor))
        self.assertEqual(await provider.send(call_push()), Accepted())
        pool = provider._environments["production"].pool
        for connection in pool._connections:
            self.assertTrue(connection.transport.transport.getTcpNoDelay())

    async def test_of_plain_connections_too(self) -> None:
        """All outgoing connections are created by the same code."""
        socket = ListeningSocket(reactor=reactor)
        port = socket.open(quiet(Protocol))
        self.addCleanup(lambda: Deferred.fromCoroutine(socket.close()))
        made: Any = await DirectEndpoint(reactor, "127.0.0.1", port).connect(quiet(Protocol))
        self.assertTrue(made.transport.getTcpNoDelay())
        made.transport.abortConnection()


def quiet(make: Any) -> Any:
    """A factory that logs nothing."""
    factory: Any = Factory.forProtocol(make)
    factory.noisy = False
    return factory


async def serve_tls(case: AppleTestCase, certificate: Path) -> str:
    """A server that speaks TLS and offers no protocol; its URL."""
    tls = ServerTLS(certificate)
    tls.context.set_options(SSL.OP_NO_TICKET)
    socket = ListeningSocket(reactor=reactor)
    factory = tls.wrap(quiet(Protocol))
    factory.noisy = False
    port = socket.open(factory)
    case.addCleanup(lambda: Deferred.fromCoroutine(socket.close()))
    return f"https://localhost:{port}"
