"""Pushes that Google may have, pushes it has not, and paths that fail silently."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from middlewared.push.interface import (
    Accepted,
    CallPush,
    ConfigFault,
    PushProvider,
    PushResult,
    Temporary,
    Uncertain,
)
from middlewared.simulator.google_errors import FCM_ERRORS, fcm_error, legacy_success
from middlewared.simulator.http1_server import BreakOff, HttpReply
from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall
from tests.contracts.push_transport import PushTransportContract
from tests.google import GoogleTestCase, call_push, reactor
from tests.waiting import until


class Uncertainties:
    """The rules of both protocols for a push without a status."""

    async def test_connection_that_ends_after_the_push_was_read(self: Any) -> None:
        """It may have been delivered, on a new connection as on a kept one."""
        for end in (ResetConnection(), HangUp()):
            self.provider = self.new_provider()
            for _ in range(2):
                self.google.scripts.for_next(1, Deliver(), end)
                self.assert_uncertain(await self.send(), "transport")
                self.assertEqual((await self.send()).label, "accepted")

    async def test_refused_connection(self: Any) -> None:
        """Nothing was sent."""
        await self.send()
        await self.gate.stop()
        self.assertEqual(await self.send(), Temporary("transport"))

    async def test_connection_that_ends_in_the_handshake(self: Any) -> None:
        """Nothing was sent, so an immediate retry is safe."""
        self.provider = await self.provider_at(Hasty)
        self.assertEqual(await self.send(), Temporary("transport", 0.0))

    async def test_handshake_that_is_not_answered(self: Any) -> None:
        """Nothing was sent, whether the time-out or the call's deadline comes first."""
        self.attempt_timeout_s = 0.3
        self.provider = await self.provider_at(Mute)
        self.assertEqual(await self.send(), Temporary("timeout"))
        self.assertEqual(await self.send(call_push(wait_s=0.2)), Temporary("deadline"))

    async def test_error_status_stands_without_its_body(self: Any) -> None:
        """The status decides, whatever happens to the connection."""
        self.google.scripts.for_next(1, BreakOff(HttpReply(503, b"<html>" * 10)))
        self.assertEqual(await self.send(), Temporary("http-503"))
        self.google.scripts.for_next(1, BreakOff(HttpReply(403, b"<html>" * 10)))
        self.assertEqual(await self.send(), ConfigFault("http-403"))

    async def test_slow_connection_takes_nothing_from_the_answer(self: Any) -> None:
        """The time for the answer starts when the provider has the push."""
        self.attempt_timeout_s = 0.5
        self.provider = self.new_provider()
        self.google.scripts.for_next(1, Delay(0.3))
        assert self.gate is not None
        self.gate.opening_s = 0.3
        self.assertEqual(await self.send(), Accepted())


class Paths:
    """Kept connections whose path has failed silently."""

    async def test_dead_path_costs_one_time(self: Any) -> None:
        """Of five kept connections: the first push notices, the next opens a new one at once."""
        await self.keep_connections(5)
        self.gate.forget()
        took_s, result = await timed(self.send())
        self.assert_uncertain(result, "timeout")
        self.assertTrue(0.69 < took_s < 1.4, took_s)
        await until(lambda: self.gate.connections == 0)
        took_s, result = await timed(self.send())
        self.assertEqual(result, Accepted())
        self.assertLess(took_s, 0.6)

    async def test_repeat_to_a_once_device_is_not_wanted_earlier(self: Any) -> None:
        """Its push waits until the repeat is due; meanwhile others use a new connection."""
        await self.keep_connections(3)
        self.gate.forget()
        once = Deferred.fromCoroutine(timed(self.send(call_push(repeat_after_s=1.5))))
        await deferLater(reactor, 0.75)
        self.assertEqual(await self.send(), Accepted())
        took_s, result = await once
        self.assert_uncertain(result, "timeout")
        self.assertTrue(1.49 < took_s < 1.95, took_s)

    async def test_slow_answer_spares_a_once_device_the_repeat(self: Any) -> None:
        """Google is alive, and takes 0.9 s."""
        await self.keep_connections(2)
        self.google.scripts.for_next(1, Deliver(), Delay(0.9))
        self.assertEqual(await self.send(call_push(repeat_after_s=1.5)), Accepted())
        self.assertEqual(self.google.record.received_count, 3)

    async def test_slow_google_is_learnt(self: Any) -> None:
        """One push is uncertain; after that, kept connections get the time Google needs."""
        await self.keep_connections(1)
        self.google.scripts.for_next(3, Deliver(), Delay(0.9))
        self.assert_uncertain(await self.send(), "timeout")
        self.assertEqual(await self.send(), Accepted())
        self.assertEqual(await self.send(), Accepted())

    async def test_new_connection_is_given_two_seconds(self: Any) -> None:
        """Its path was just proven."""
        await self.keep_connections(1)
        self.gate.forget()
        await self.send()
        self.google.scripts.for_next(1, Deliver(), Delay(1.2))
        self.assertEqual(await self.send(), Accepted())

    async def test_silence_is_not_counted_while_this_process_is_paused(self: Any) -> None:
        """The answer is in the socket when the process continues."""
        await self.keep_connections(1)
        self.google.scripts.for_next(1, Delay(0.3))
        sending = self.sending()
        time.sleep(0.9)  # noqa: ASYNC251 - the pause
        self.assertEqual(await sending, Accepted())

    async def keep_connections(self: Any, count: int) -> None:
        """Leave ``count`` connections idle in the client."""
        self.google.scripts.for_next(count, Delay(0.1))
        await gatherResults([self.sending() for _ in range(count)])
        self.assertEqual(self.provider.connection_states()["production", "ready"], count)


async def timed(sending: Coroutine[Any, Any, PushResult]) -> tuple[float, PushResult]:
    """How long a push took, and its result."""
    began = time.monotonic()
    result = await sending
    return time.monotonic() - began, result


class Hasty(Protocol):
    """Closes as soon as something arrives."""

    def dataReceived(self, data: bytes) -> None:
        """Close."""
        transport: Any = self.transport
        transport.loseConnection()


class Mute(Protocol):
    """Reads everything and never answers."""


class GatedTestCase(GoogleTestCase):
    """Google behind a relay that can drop connections silently."""

    is_gated = True
    attempt_timeout_s = 2.0

    async def listening(self, protocol: type[Protocol]) -> str:
        """The base URL of a server that speaks ``protocol``."""
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(Factory.forProtocol(protocol))
        self.addCleanup(port.stopListening)
        return f"https://127.0.0.1:{port.getHost().port}"


class FcmUncertainTests(PushTransportContract, GoogleTestCase):
    """FCM HTTP v1 over HTTP/2: the contract of all providers, and Google's own."""

    attempt_timeout_s = 2.0
    refusals: ClassVar[Mapping[int, PushResult]] = {
        200: Accepted(),
        403: ConfigFault("http-403"),
        503: Temporary("http-503"),
    }

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        await super().setUp()
        self.peer = self.google

    def new_provider(self) -> PushProvider:
        """FCM HTTP v1."""
        return self.new_fcm()

    def push(self, **options: Any) -> CallPush:
        return call_push(**options)

    async def test_access_token_refused_without_a_body(self) -> None:
        """The push was not accepted: it is sent again with another token."""
        status, _ = FCM_ERRORS["THIRD_PARTY_AUTH_ERROR"]
        self.google.scripts.for_next(1, BreakOff(HttpReply(status, b"<html>" * 10)))
        self.assertEqual(await self.send(), Accepted())
        self.assertEqual(self.google.oauth.issued_count, 2)

    async def test_deadline_after_a_refused_access_token(self) -> None:
        """A refused push was not delivered."""
        await self.send()
        self.google.oauth.revoke_all()
        self.google.oauth_scripts.for_all(Stall())
        self.assertEqual(await self.send(call_push(wait_s=0.3)), Temporary("deadline"))

    async def test_retry_after_stands(self) -> None:
        """The headers that arrived are used."""
        reply = fcm_error("UNAVAILABLE", retry_after="3")
        self.google.scripts.for_next(1, BreakOff(reply))
        self.assertEqual(await self.send(), Temporary("http-503", 3.0))

    async def test_a_push_that_is_not_answered_is_left_after_two_seconds(self) -> None:
        """Google is alive, and answers PINGs."""
        await self.send()
        opened = self.google.record.connection_count
        self.google.scripts.for_next(1, Deliver(), Stall())
        took_s, result = await timed(self.send(call_push(wait_s=10.0)))
        self.assert_uncertain(result, "timeout")
        self.assertTrue(1.99 < took_s < 3.5, took_s)
        self.assertEqual(self.google.record.connection_count, opened)


class LegacyUncertainTests(Uncertainties, Paths, GatedTestCase):
    """The legacy protocol, over HTTP/1.1."""

    def new_provider(self) -> PushProvider:
        """The legacy protocol at FCM's address."""
        return self.new_legacy()

    async def provider_at(self, protocol: type[Protocol]) -> PushProvider:
        """A provider of another server."""
        return self.new_legacy(url=await self.listening(protocol))

    async def test_success_without_its_results_is_uncertain(self) -> None:
        """Only the body shows whether the message was accepted."""
        self.google.scripts.for_next(1, Deliver(), BreakOff(legacy_success("0:1")))
        result = await self.send()
        self.assertIsInstance(result, Uncertain)
        self.assert_uncertain(result, "broken-answer")
