"""
What every provider over HTTP/2 must do when the transport fails.

``PushTransportContract`` is mixed into a TestCase that starts a simulated server (``peer``) and a
provider of it (``provider``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from middlewared.push.interface import (
    Accepted,
    CallPush,
    PushProvider,
    PushResult,
    Temporary,
    Uncertain,
)
from middlewared.simulator.http2.frame_steps import GoAway, Head, ResetStream
from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall

reactor = cast(Any, _reactor)
REFUSED_STREAM = 7
INTERNAL_ERROR = 2

if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object  # a contract alone is no test, so no runner may collect it


class PushTransportContract(_Case):
    """
    The transport's faults.

    :cvar refusals: what an answer that breaks off after its status means, by status.
    """

    peer: Any
    provider: PushProvider
    refusals: ClassVar[Mapping[int, PushResult]]

    def push(self, **options: Any) -> CallPush:
        """A call's push; see the concrete case's ``call_push``."""
        raise NotImplementedError

    async def sent(self, **options: Any) -> PushResult:
        return await self.provider.send(self.push(**options))

    def assert_uncertain_now(self, result: PushResult, reason: str, since: float) -> None:
        """All of the push was sent after ``since``."""
        assert isinstance(result, Uncertain), result
        self.assertEqual(result.reason, reason)
        self.assertTrue(since <= result.sent_at <= reactor.seconds(), result)

    async def test_losses_of_pushes_that_were_sent(self) -> None:
        """Each is reported once, with its time, and the push is not sent a second time."""
        for steps, reason in (
            ((ResetConnection(),), "connection lost"),
            ((HangUp(),), "connection lost"),
            ((ResetStream(INTERNAL_ERROR),), "RST_STREAM INTERNAL_ERROR"),
            ((GoAway(), HangUp()), "connection lost"),
            ((GoAway(code=INTERNAL_ERROR), ResetConnection()), "connection lost"),
            ((Stall(acknowledge_pings=False),), "connection silent"),
        ):
            self.assertEqual(await self.sent(), Accepted())
            self.peer.scripts.for_next(1, *steps)
            since, received = reactor.seconds(), self.peer.record.received_count
            self.assert_uncertain_now(await self.sent(), reason, since)
            self.assertEqual(self.peer.record.received_count, received + 1, steps)
        self.assertEqual(await self.sent(), Accepted())

    async def test_it_was_sent_before_the_loss(self) -> None:
        """The time is that of sending the push, not of noticing its loss."""
        await self.sent()
        self.peer.scripts.for_next(1, Delay(0.3), ResetConnection())
        result = await self.sent()
        self.assert_uncertain_now(result, "connection lost", 0.0)
        self.assertGreater(reactor.seconds() - cast(Uncertain, result).sent_at, 0.25)

    async def test_a_status_that_was_read_stands(self) -> None:
        """Whatever happens to stream or connection; only the body is missing."""
        for status, result in self.refusals.items():
            for steps in (
                (ResetStream(INTERNAL_ERROR),),
                (ResetStream(REFUSED_STREAM),),
                (HangUp(),),
                (GoAway(unprocessed=1), HangUp()),
            ):
                self.peer.scripts.for_next(1, Head(status), *steps)
                received = self.peer.record.received_count
                self.assertEqual(await self.sent(), result, steps)
                self.assertEqual(self.peer.record.received_count, received + 1)

    async def test_a_status_stands_at_the_deadline_too(self) -> None:
        """The rest of the answer is late, but its meaning is known."""
        await self.sent()
        self.peer.scripts.for_next(1, Head(200), Stall())
        self.assertEqual(await self.sent(wait_s=0.2), Accepted())

    async def test_what_was_not_processed_is_replayed_if_it_is_wanted(self) -> None:
        """After REFUSED_STREAM, or a GOAWAY below it; ``wanted`` is called again."""
        for step in (ResetStream(REFUSED_STREAM), GoAway(unprocessed=1, close=True)):
            for replays, result in ((1, Accepted()), (0, Temporary("unwanted"))):
                await self.sent()
                self.peer.scripts.for_next(1, step)
                most = self.peer.record.received_count + replays
                wanted = partial(self.not_more_than, most)
                self.assertEqual(await self.sent(wanted=wanted), result)
                self.assertEqual(self.peer.record.received_count, most + 1)

    def not_more_than(self, received: int) -> bool:
        """Whether the peer has received at most ``received`` pushes."""
        return bool(self.peer.record.received_count <= received)

    async def test_a_push_that_meets_goaway_with_an_error_twice(self) -> None:
        """It may be the cause: it was certainly not processed, but is not retried."""
        self.peer.scripts.for_next(2, GoAway(unprocessed=1, code=INTERNAL_ERROR, close=True))
        self.assertEqual(await self.sent(), Temporary("lost with its connection twice"))
        self.assertEqual(self.peer.record.received_count, 2)
        first, second = self.peer.record.received
        self.assertNotEqual(first.connection, second.connection)
        self.assertEqual(await self.sent(), Accepted())

    async def test_a_push_that_cannot_be_sent_waits_for_the_peer(self) -> None:
        """Nothing listens: it ends at its deadline, or is sent when the peer is back."""
        await self.sent()
        await self.peer.stop()
        self.assertEqual(await self.sent(wait_s=0.3), Temporary("deadline"))
        waiting = Deferred.fromCoroutine(self.sent(wait_s=60.0))
        await deferLater(reactor, 0.1)
        await self.peer.start()
        self.assertEqual(await waiting, Accepted())

    async def test_deadline_of_a_push_that_was_sent(self) -> None:
        """It may be delivered yet; its connection is used on."""
        await self.sent()
        opened = self.peer.record.connection_count
        self.peer.scripts.for_next(1, Deliver(), Stall())
        since = reactor.seconds()
        self.assert_uncertain_now(await self.sent(wait_s=0.3), "deadline", since)
        self.assertEqual(await self.sent(), Accepted())
        self.assertEqual(self.peer.record.connection_count, opened)

    async def test_stop_ends_pushes_in_flight(self) -> None:
        """What was sent is Uncertain, what was not Temporary."""
        await self.sent()
        self.peer.scripts.for_next(1, Stall())
        since = reactor.seconds()
        sending = await self.in_flight()
        await self.provider.stop()
        self.assert_uncertain_now(await sending, "stopped", since)
        self.assertEqual(await self.sent(), Temporary("stopped"))

    async def test_cancelled_push_is_given_up(self) -> None:
        """Its caller does not need the result any more."""
        await self.sent()
        self.peer.scripts.for_next(1, Stall())
        sending = await self.in_flight()
        sending.cancel()
        await self.assertFailure(sending, CancelledError)

    async def in_flight(self) -> Deferred[PushResult]:
        """A push that the peer has received."""
        received = self.peer.record.received_count
        sending = Deferred.fromCoroutine(self.sent(wait_s=60.0))
        while self.peer.record.received_count == received:
            await deferLater(reactor, 0.01)
        return sending
