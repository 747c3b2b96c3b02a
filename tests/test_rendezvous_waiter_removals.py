"""Members that leave Redis, few or thousands at once, with Redis there or away."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.model import Call
from middlewared.rendezvous.redis.waiter_removals import (
    AT_ONCE,
    RETRY_PAUSE_S,
    WaiterRemoval,
    WaiterRemovals,
)
from tests.contracts.rendezvous import a_call
from tests.redis_members import OwnServerCase


class WaiterRemovalsTests(SynchronousTestCase):
    """Which removals are made when."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.started: list[tuple[str, Deferred[bool]]] = []
        self.ended: list[str] = []
        self.removals = WaiterRemovals(
            clock=self.clock, background=Background(), remove=self.remove
        )
        self.addCleanup(self.removals.stop)

    async def remove(self, unique_key: str, waiter_id: str) -> bool:
        reply: Deferred[bool] = Deferred()
        self.started.append((waiter_id, reply))
        return await reply

    def add(self, waiter_id: str, call: Call | None = None) -> Call:
        call = call or a_call(wait_s=0.0)
        self.removals.add(WaiterRemoval(call, waiter_id, lambda: self.ended.append(waiter_id)))
        return call

    def waiter_ids(self) -> Sequence[str]:
        return [waiter_id for waiter_id, _ in self.started]

    def test_few_are_under_way_at_once(self) -> None:
        """The next one begins when one has ended."""
        for number in range(AT_ONCE + 2):
            self.add(str(number))
        self.assertEqual(len(self.started), AT_ONCE)
        self.started[0][1].callback(True)
        self.assertEqual(self.waiter_ids()[AT_ONCE:], [str(AT_ONCE)])
        self.assertEqual(self.ended, ["0"])
        self.assertEqual(len(self.removals), AT_ONCE + 1)

    def test_a_call_that_is_placed_again_waits_for_no_queue(self) -> None:
        """What its earlier try left behind goes first, so that it does not meet it."""
        for number in range(AT_ONCE):
            self.add(str(number))
        one = self.add("one", a_call(call_id="abc"))
        self.add("other")
        again = Deferred.fromCoroutine(self.removals.finish(a_call(call_id="abc")))
        self.assertEqual(self.waiter_ids()[AT_ONCE:], ["one"])
        by_key = Deferred.fromCoroutine(self.removals.finish(one))
        self.assertEqual(len(self.started), AT_ONCE + 1)
        self.assertNoResult(again)
        self.started[AT_ONCE][1].callback(True)
        self.successResultOf(again)
        self.successResultOf(by_key)

    def test_a_call_is_placed_again_though_a_removal_fails(self) -> None:
        """It waits for one attempt, not for the repeats."""
        call = self.add("one", a_call(call_id="abc"))
        again = Deferred.fromCoroutine(self.removals.finish(call))
        self.started[0][1].errback(RendezvousDown("away"))
        self.successResultOf(again)

    def test_a_failed_one_is_repeated_while_its_record_lives(self) -> None:
        """The call ends here at the first failure, once."""
        call = a_call()
        call = Call(call.unique_key, call.incoming, 0.0, RETRY_PAUSE_S * 1.5, call.start_time)
        self.add("one", call)
        for times in (1, 2, 3):
            self.assertEqual(self.waiter_ids(), ["one"] * times)
            self.started[-1][1].errback(RendezvousDown("away"))
            self.assertEqual(self.ended, ["one"])
            self.clock.advance(RETRY_PAUSE_S)
        self.assertEqual(self.waiter_ids(), ["one"] * 3)
        self.assertEqual(len(self.removals), 0)

    def test_failures_that_come_at_once_are_no_recursion(self) -> None:
        """Thousands of them while there is no connection."""

        async def fails(unique_key: str, waiter_id: str) -> bool:
            raise RendezvousDown("not connected")

        removals = WaiterRemovals(clock=self.clock, background=Background(), remove=fails)
        call = a_call()
        for number in range(3000):
            removals.add(WaiterRemoval(call, str(number), lambda: None))
        self.clock.advance(RETRY_PAUSE_S)
        removals.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HangUpTests(OwnServerCase):
    """PBX connections that close while their calls wait, at a real server."""

    async def test_thousands_at_once(self) -> None:
        """Redis keeps its connections, and no record of a dead call."""
        before = self.connections()
        joins = [Deferred.fromCoroutine(self.here.join(a_call())) for _ in range(3000)]
        waiters = await gatherResults(joins)
        for waiter in waiters:
            waiter.leave()
        self.assertEqual(self.here.waiting, 0)
        await self.until(lambda: not self.records())
        await self.until(lambda: all(waiter.ended.called for waiter in waiters))
        self.assertEqual(self.connections(), before)

    async def test_while_redis_is_away(self) -> None:
        """The records go as soon as Redis is back, long before they would expire."""
        joins = [Deferred.fromCoroutine(self.here.join(a_call(wait_s=3600))) for _ in range(300)]
        waiters = await gatherResults(joins)
        self.server.pause()
        for waiter in waiters:
            waiter.leave()
        await self.until(lambda: not self.here.up)
        self.assertEqual(self.here.waiting, 0)
        self.server.resume()
        await self.until(lambda: not self.records())

    async def test_during_a_renewal(self) -> None:
        """Redis has no waiter again that has left, though the renewal was repeated meanwhile."""
        other = await self.here.join(a_call())
        other.leave()
        await self.until(lambda: not self.records())  # Redis has all scripts but a renewal's
        first = await self.here.join(a_call(call_id="abc", wait_s=3600))
        repeat = Deferred.fromCoroutine(self.here.join(a_call(call_id="abc", wait_s=3600)))
        first.leave()
        (await repeat).leave()
        await self.until(lambda: not any(":call:" in key for key in self.records()))
