"""Members that leave Redis, few or thousands at once, with Redis there or away."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.model import Call
from middlewared.rendezvous.redis.departures import AT_ONCE, RETRY_PAUSE_S, Departure, Departures
from tests.contracts.rendezvous import a_call
from tests.redis_members import OwnServerCase


class DeparturesTests(SynchronousTestCase):
    """Which departures are made when."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.begun: list[tuple[str, Deferred[bool]]] = []
        self.ended: list[str] = []
        self.departures = Departures(clock=self.clock, background=Background(), leave=self.leave)
        self.addCleanup(self.departures.stop)

    async def leave(self, unique_key: str, member: str) -> bool:
        reply: Deferred[bool] = Deferred()
        self.begun.append((member, reply))
        return await reply

    def add(self, member: str, call: Call | None = None) -> Call:
        call = call or a_call(wait_s=0.0)
        self.departures.add(Departure(call, member, lambda: self.ended.append(member)))
        return call

    def members(self) -> Sequence[str]:
        return [member for member, _ in self.begun]

    def test_few_are_under_way_at_once(self) -> None:
        """The next one begins when one has ended."""
        for number in range(AT_ONCE + 2):
            self.add(str(number))
        self.assertEqual(len(self.begun), AT_ONCE)
        self.begun[0][1].callback(True)
        self.assertEqual(self.members()[AT_ONCE:], [str(AT_ONCE)])
        self.assertEqual(self.ended, ["0"])
        self.assertEqual(len(self.departures), AT_ONCE + 1)

    def test_a_call_that_is_placed_again_waits_for_no_queue(self) -> None:
        """What its earlier try left behind goes first, so that it does not meet it."""
        for number in range(AT_ONCE):
            self.add(str(number))
        one = self.add("one", a_call(call_id="abc"))
        self.add("other")
        self.departures.hurry(a_call(call_id="abc"))
        self.assertEqual(self.members()[AT_ONCE:], ["one"])
        self.departures.hurry(one)
        self.assertEqual(len(self.begun), AT_ONCE + 1)

    def test_a_failed_one_is_repeated_while_its_record_lives(self) -> None:
        """The call ends here at the first failure, once."""
        call = a_call()
        call = Call(call.unique_key, call.incoming, 0.0, RETRY_PAUSE_S * 1.5, call.start_time)
        self.add("one", call)
        for times in (1, 2, 3):
            self.assertEqual(self.members(), ["one"] * times)
            self.begun[-1][1].errback(RendezvousDown("away"))
            self.assertEqual(self.ended, ["one"])
            self.clock.advance(RETRY_PAUSE_S)
        self.assertEqual(self.members(), ["one"] * 3)
        self.assertEqual(len(self.departures), 0)

    def test_failures_that_come_at_once_are_no_recursion(self) -> None:
        """Thousands of them while there is no connection."""

        async def fails(unique_key: str, member: str) -> bool:
            raise RendezvousDown("not connected")

        departures = Departures(clock=self.clock, background=Background(), leave=fails)
        call = a_call()
        for number in range(3000):
            departures.add(Departure(call, str(number), lambda: None))
        self.clock.advance(RETRY_PAUSE_S)
        departures.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HangUpTests(OwnServerCase):
    """PBX connections that close while their calls wait, at a real server."""

    async def test_thousands_at_once(self) -> None:
        """Redis keeps its connections, and no record of a dead call."""
        before = self.connections()
        joins = [Deferred.fromCoroutine(self.here.join(a_call())) for _ in range(3000)]
        places = await gatherResults(joins)
        for place in places:
            place.leave()
        self.assertEqual(self.here.waiting, 0)
        await self.until(lambda: not self.records())
        await self.until(lambda: all(place.over.called for place in places))
        self.assertEqual(self.connections(), before)

    async def test_while_redis_is_away(self) -> None:
        """The records go as soon as Redis is back, long before they would expire."""
        joins = [Deferred.fromCoroutine(self.here.join(a_call(wait_s=3600))) for _ in range(300)]
        places = await gatherResults(joins)
        self.server.pause()
        for place in places:
            place.leave()
        await self.until(lambda: not self.here.up)
        self.assertEqual(self.here.waiting, 0)
        self.server.resume()
        await self.until(lambda: not self.records())
