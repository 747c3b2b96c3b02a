"""A pause of this process, or a very busy turn of its reactor, does no harm to calls."""

from __future__ import annotations

import time
from typing import cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from middlewared.model import Outcome, Settlement
from middlewared.rendezvous.redis.lua_scripts import ANSWER
from middlewared.rendezvous.redis.records import late_key, record_key, settlement_text
from middlewared.rendezvous.redis.redis_protocol import SILENCE_S
from tests.contracts.rendezvous import a_call, an_answer
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


def be_paused(seconds: float) -> None:
    """Block the reactor."""
    time.sleep(seconds)
