"""A pause of this process, or a very busy turn of its reactor, does no harm to calls."""

from __future__ import annotations

import time
from typing import cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from middlewared.model import Outcome, Settlement
from middlewared.rendezvous.interface import Waiter
from middlewared.rendezvous.redis.expiries import OTHERS_WAKE_S, STOOD_STILL_S
from middlewared.rendezvous.redis.lua_scripts import ANSWER
from middlewared.rendezvous.redis.records import late_key, record_key, settlement_text
from middlewared.rendezvous.redis.redis_protocol import SILENCE_S
from tests.contracts.rendezvous import ACCEPTED, a_call, an_answer
from tests.redis_members import OwnServerCase

clock = cast(IReactorTime, reactor)


class PausedProcessTests(OwnServerCase):
    """The reactor is blocked as SIGSTOP would block it."""

    async def test_links_survive_a_pause_with_commands_under_way(self) -> None:
        """Replies that lie unread in our own socket's buffer are no silence of Redis."""
        before = self.connections()
        joins = [Deferred.fromCoroutine(self.here.join(a_call())) for _ in range(50)]
        await deferLater(clock, 0)
        be_paused(SILENCE_S * 3)
        await gatherResults(joins)
        self.assertEqual(self.connections(), before)
        self.assertTrue(self.here.up)

    async def test_links_survive_turns_that_are_as_long_as_the_silence(self) -> None:
        """An overloaded reactor reads its sockets once a turn, and checks no more often."""
        before = self.connections()
        for _ in range(5):
            join = Deferred.fromCoroutine(self.here.join(a_call()))
            await deferLater(clock, 0)
            be_paused(SILENCE_S * 1.5)
            await join
        self.assertEqual(self.connections(), before)

    async def test_an_answer_that_came_during_a_pause_counts(self) -> None:
        """A process that wakes after the deadline reads what came before it expires calls."""
        waiter = await self.here.join(a_call(wait_s=0.3))
        answer, key = an_answer(), waiter.call.unique_key
        text = settlement_text(Settlement.by(answer))
        keys = (record_key(key), late_key(key))
        self.server.run("EVAL", ANSWER.text, 2, *keys, "yes", answer.id, text, key, 0)
        be_paused(0.6)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def test_an_answer_that_reached_another_daemon_in_a_pause_of_both_counts(
        self,
    ) -> None:
        """The one that holds the call lets the others read first what arrived in time."""
        there = await self.member([self.server.node])
        waiter = await self.here.join(a_call(wait_s=0.3))
        be_paused(0.3 + STOOD_STILL_S + 0.1)
        await deferLater(clock, OTHERS_WAKE_S / 4)
        self.assertFalse(waiter.settled.called)
        self.assertIs(await there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def test_what_another_daemon_accepted_at_the_deadline_counts(self) -> None:
        """Its message may still be on the way: Redis decides whether the answer was first."""
        there = await self.member([self.server.node])
        for _ in range(20):
            waiter = await self.here.join(a_call(wait_s=0.1))
            await deferLater(clock, max(0.0, waiter.call.deadline - time.time()))
            accepted = await there.answer(waiter.call.unique_key, an_answer()) is ACCEPTED
            answered = (await waiter.settled).outcome is Outcome.ANSWERED
            self.assertEqual(answered, accepted)

    async def test_a_silent_redis_does_not_hold_up_a_timeout(self) -> None:
        """The PBX gets its answer without Redis' word."""
        waiter = await self.here.join(a_call(wait_s=0.3))
        self.server.pause()
        self.addCleanup(self.server.resume)
        settled = await self.in_time(settlement_of(waiter), 3.0)
        self.assertIs(settled.outcome, Outcome.TIMEOUT)
        self.server.resume()


async def settlement_of(waiter: Waiter) -> Settlement:
    return await waiter.settled


def be_paused(seconds: float) -> None:
    """Block the reactor."""
    time.sleep(seconds)
