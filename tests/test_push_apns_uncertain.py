"""Pushes that may have been delivered, against the simulated Apple over real TLS and HTTP/2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from twisted.internet.defer import gatherResults

from middlewared.push.interface import (
    Accepted,
    CallPush,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
)
from middlewared.simulator.apple.faults import Behaviour, ResetStream, rejection
from middlewared.simulator.scripts import Delay, HangUp, ResetConnection, Stall
from tests.apns import OTHER_TOKEN, TOKEN, AppleTestCase, call_push, reactor
from tests.contracts.push_transport import INTERNAL_ERROR, PushTransportContract


class UncertainTests(PushTransportContract, AppleTestCase):
    """The contract of all providers, with Apple."""

    connections = 1
    refusals: ClassVar[Mapping[int, PushResult]] = {
        200: Accepted(),
        410: Rejected("HTTP 410"),
        503: Temporary("HTTP 503"),
    }

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.peer = await self.serve()
        self.provider = self.provide(self.settings(self.peer.url))

    def push(self, **options: Any) -> CallPush:
        return call_push(**options)


class SecondRequestTests(AppleTestCase):
    """An uncertain result is final: no second request follows."""

    async def test_an_uncertain_first_request_is_the_result(self) -> None:
        """The other environment is not tried."""
        production = await self.serve()
        sandbox = await self.serve(environment="sandbox")
        provider = self.provide(self.settings(production.url, sandbox.url))
        production.scripts.for_next(1, ResetStream(INTERNAL_ERROR))
        since = reactor.seconds()
        result = await provider.send(call_push())
        self.assert_uncertain(result, "RST_STREAM INTERNAL_ERROR", since=since)
        counts = (production.record.received_count, sandbox.record.received_count)
        self.assertEqual(counts, (1, 0))

    async def test_an_uncertain_push_to_the_other_environment(self) -> None:
        """The phone may ring: the first environment's refusal does not count."""
        production = await self.serve(tokens=[TOKEN])
        sandbox = await self.serve(environment="sandbox", tokens=[OTHER_TOKEN])
        provider = self.provide(self.settings(production.url, sandbox.url))
        sandbox.scripts.for_next(1, ResetConnection())
        since = reactor.seconds()
        result = await provider.send(call_push(OTHER_TOKEN))
        self.assert_uncertain(result, "connection lost", since=since)

    async def test_a_slow_other_environment_is_waited_for(self) -> None:
        """It has the push and answers PINGs; only a push that cannot be sent is given up."""
        production = await self.serve(tokens=[TOKEN])
        sandbox = await self.serve(environment="sandbox", tokens=[OTHER_TOKEN])
        provider = self.provide(self.settings(production.url, sandbox.url))
        sandbox.scripts.for_next(1, Delay(1.7))
        result = await provider.send(call_push(OTHER_TOKEN, wait_s=30))
        self.assertEqual(result, Accepted(other_environment=True))

    async def test_an_uncertain_push_with_a_renewed_provider_token(self) -> None:
        """The first was refused, the second may have been delivered."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        apple.scripts.for_next(1, rejection("ExpiredProviderToken"))
        apple.scripts.for_next(1, ResetStream(INTERNAL_ERROR))
        since = reactor.seconds()
        result = await provider.send(call_push())
        self.assert_uncertain(result, "RST_STREAM INTERNAL_ERROR", since=since)
        self.assertEqual(apple.record.received_count, 2)

    async def test_dead_in_one_request_is_dead(self) -> None:
        """A refusal is certain."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        apple.scripts.for_next(1, rejection("Unregistered"), HangUp())
        self.assertEqual(await provider.send(call_push()), TokenDead("Unregistered"))


class DeadlineTests(AppleTestCase):
    """Many pushes that Apple does not answer in time."""

    connections = 1

    async def test_resets_do_not_come_in_floods(self) -> None:
        """Apple would close connections for that; the pushes still end, and later ones work."""
        apple = await self.serve(behaviour=Behaviour(most_resets=150))
        provider = self.provide(self.settings(apple.url))
        await provider.send(call_push())
        apple.scripts.for_next(400, Stall())
        since = reactor.seconds()
        deadline = call_push(wait_s=3.0)
        results = await gatherResults([self.sending(provider, deadline) for _ in range(400)])
        for result in results:
            self.assert_uncertain(result, "deadline", since=since)
        self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertGreaterEqual(apple.record.reset_count, 100)
        self.assertEqual(apple.record.connection_count, 2)  # one in each environment
