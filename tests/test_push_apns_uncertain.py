"""Pushes that may have been delivered, against the simulated Apple over real TLS and HTTP/2."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import gatherResults

from middlewared.push.interface import Accepted, Rejected, Temporary, TokenDead
from middlewared.simulator.apple.faults import Behaviour, GoAway, Head, ResetStream, Step, rejection
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.scripts import Delay, HangUp, ResetConnection, Stall
from tests.apns import OTHER_TOKEN, TOKEN, AppleTestCase, call_push, reactor

REFUSED_STREAM = 7
INTERNAL_ERROR = 2


class UncertainTests(AppleTestCase):
    """All of a push was sent, but no status came."""

    connections = 1

    async def test_losses_of_pushes_that_were_sent(self) -> None:
        """Each is reported once, with its time, and the push is not sent a second time."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        for steps, reason in (
            ((ResetConnection(),), "connection lost"),
            ((HangUp(),), "connection lost"),
            ((ResetStream(INTERNAL_ERROR),), "RST_STREAM INTERNAL_ERROR"),
            ((GoAway(), HangUp()), "connection lost"),
            ((GoAway(code=INTERNAL_ERROR), ResetConnection()), "connection lost"),
            ((Stall(acknowledge_pings=False),), "connection silent"),
        ):
            self.assertEqual(await provider.send(call_push(OTHER_TOKEN)), Accepted())
            apple.scripts.for_next(1, *steps)
            since, received = reactor.seconds(), apple.record.received_count
            self.assert_uncertain(await provider.send(call_push()), reason, since=since)
            self.assertEqual(apple.record.received_count, received + 1, steps)

    async def test_it_was_sent_before_the_loss(self) -> None:
        """The time is that of sending the push, not of noticing its loss."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        await provider.send(call_push())
        apple.scripts.for_next(1, Delay(0.3), ResetConnection())
        result = await provider.send(call_push())
        self.assert_uncertain(result, "connection lost", since=0.0)
        self.assertGreater(reactor.seconds() - result.sent_at, 0.25)  # type: ignore[union-attr]

    async def test_a_status_that_was_read_stands(self) -> None:
        """Whatever happens to stream or connection; only the body is missing."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        ends: tuple[tuple[Step, ...], ...] = (
            (ResetStream(INTERNAL_ERROR),),
            (ResetStream(REFUSED_STREAM),),
            (HangUp(),),
            (GoAway(unprocessed=1), HangUp()),
        )
        for status, result in (
            (200, Accepted()),
            (410, Rejected("HTTP 410")),
            (503, Temporary("HTTP 503")),
        ):
            for steps in ends:
                apple.scripts.for_next(1, Head(status), *steps)
                received = apple.record.received_count
                self.assertEqual(await provider.send(call_push()), result, steps)
                self.assertEqual(apple.record.received_count, received + 1)

    async def test_a_status_stands_at_the_deadline_too(self) -> None:
        """The rest of the answer is late, but its meaning is known."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        await provider.send(call_push())
        apple.scripts.for_next(1, Head(200), Stall())
        self.assertEqual(await provider.send(call_push(wait_s=0.2)), Accepted())

    async def test_what_was_not_processed_is_replayed_if_it_is_wanted(self) -> None:
        """After REFUSED_STREAM, or a GOAWAY below it; ``wanted`` is called again."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        for step in (ResetStream(REFUSED_STREAM), GoAway(unprocessed=1, close=True)):
            for replays, result in ((1, Accepted()), (0, Temporary("unwanted"))):
                await provider.send(call_push(OTHER_TOKEN))
                apple.scripts.for_next(1, step)
                most = apple.record.received_count + replays
                wanted = partial(self.not_more_than, apple, most)
                self.assertEqual(await provider.send(call_push(wanted=wanted)), result)
                self.assertEqual(apple.record.received_count, most + 1)

    def not_more_than(self, apple: AppleServer, received: int) -> bool:
        """Whether Apple has received at most ``received`` pushes."""
        return apple.record.received_count <= received

    async def test_a_push_that_meets_goaway_with_an_error_twice(self) -> None:
        """It may be the cause: it was certainly not processed, but is not retried."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        apple.scripts.for_next(2, GoAway(unprocessed=1, code=INTERNAL_ERROR, close=True))
        self.assertEqual(
            await provider.send(call_push()), Temporary("lost with its connection twice")
        )
        self.assertEqual(apple.record.received_count, 2)
        first, second = apple.record.received
        self.assertNotEqual(first.connection, second.connection)
        self.assertEqual(await provider.send(call_push()), Accepted())


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
