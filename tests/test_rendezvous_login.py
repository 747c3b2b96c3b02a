"""What the log shows of a login that Redis refuses."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from middlewared.rendezvous.redis.redis_connection import Login, RedisConnection

reactor: Any = installed_reactor
PASSWORD = "correct-horse"


class Refusing(Protocol):
    """A Redis that answers anything with one error."""

    factory: Any

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(b"-" + self.factory.error + b"\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.lost.callback(None)
        self.factory.lost = Deferred()


class LoginTests(TestCase):
    async def shown(self, error: bytes) -> str:
        """What is logged when AUTH is answered with ``error``."""
        factory: Any = Factory.forProtocol(Refusing)
        factory.error, factory.lost = error, Deferred()
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        warned: Deferred[str] = Deferred()

        def watch(event: LogEvent) -> None:
            if "redis_connection" in event.get("log_namespace", "") and not warned.called:
                warned.callback(formatEvent(event))

        publisher: Any = globalLogPublisher
        publisher.addObserver(watch)
        self.addCleanup(publisher.removeObserver, watch)
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        connection = RedisConnection(
            name="r",
            clock=reactor,
            endpoint=lambda: endpoint,
            login=Login("daemon", PASSWORD),
        )
        lost = factory.lost
        connection.start()
        line = await warned
        await connection.stop()
        await lost
        return line

    async def test_password_is_not_shown(self) -> None:
        """A server where AUTH was renamed repeats what it was sent."""
        line = await self.shown(
            b"ERR unknown command 'AUTH', with args beginning with: 'daemon' 'correct-horse' "
        )
        self.assertEqual(line, "redis r: LoginRefused: 'AUTH failed: ERR'")

    async def test_kind_of_the_refusal_is_shown(self) -> None:
        """Its first word, if that is one of Redis's error codes."""
        line = await self.shown(b"WRONGPASS invalid username-password pair or user is disabled.")
        self.assertIn("WRONGPASS", line)
        self.assertNotIn(PASSWORD, await self.shown(b"correct-horse is wrong"))
