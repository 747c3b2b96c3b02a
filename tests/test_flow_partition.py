"""Daemons behind a balancer that repeats, while one of them or all are cut off from Redis."""

from __future__ import annotations

import signal
import uuid
from collections import Counter
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.web.client import ResponseFailed

from middlewared.background import Background
from middlewared.simulator.record import GooglePush
from tests.cuttable import CuttableProxy
from tests.fleet import FleetTestCase, Shared
from tests.servers.redis import Redis

clock: Any = reactor
CALLS_PER_S = 20


class PartitionTests(FleetTestCase):
    """Three daemons at one Redis, the third by way of a proxy; phones answer at once."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.redis = Redis()
        self.addCleanup(self.redis.remove)
        self.proxy = CuttableProxy(self.redis.node)
        await self.proxy.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.proxy.stop()))
        whole = Shared.of(self.redis)
        cut_off = attrs.evolve(whole, redis="nodes = {}:{}".format(*self.proxy.node))
        await self.start_each([whole, whole, cut_off], wait_ms=4000)
        self.assertEqual((await self.register(at=0)).status, 201)
        self.turns = 0
        self.background = Background()
        self.outcomes: Counter[str] = Counter()
        self.answering = Deferred.fromCoroutine(self.answer_all())
        self.addCleanup(self.answering.cancel)
        self.answering.addErrback(lambda _: None)

    async def answer_all(self) -> None:
        """Phones answer as soon as they are woken."""
        while True:
            push = await self.pushes.get()
            self.background.run(self.phone_answers(push))

    async def phone_answers(self, push: GooglePush) -> None:
        """The balancer repeats a 503 at the next daemon."""
        for at in self.next_daemons():
            status = await self.answer(at, push)
            self.outcomes[f"phone {status}"] += 1
            if status != 503:
                return

    async def place_call(self) -> None:
        """The same for the PBX; with a call_id, by which a repeat finds what it left behind."""
        call_id, outcome = str(uuid.uuid4()), "none"
        for at in self.next_daemons():
            try:
                answered = await self.call(at, call_id=call_id)
            except ResponseFailed:
                continue
            outcome = answered.header("X-Outcome")
            if answered.status != 503:
                break
            if outcome == "service-down":  # "overloaded" is what a busy machine makes of it
                self.outcomes[f"refused by {at}"] += 1
        self.outcomes[outcome] += 1

    def next_daemons(self) -> list[int]:
        """All daemons, in turn another one first."""
        self.turns += 1
        return [(self.turns + number) % 3 for number in range(3)]

    async def load(self, seconds: float) -> None:
        """Calls at a steady rate, until all of them have ended."""
        placing = LoopingCall(lambda: self.background.run(self.place_call()))
        placing.clock = clock
        running = placing.start(1 / CALLS_PER_S)
        await deferLater(clock, seconds)
        placing.stop()
        await running
        await self.background.finish()

    def assert_none_lost(self) -> None:
        lost = set(self.outcomes) - {"answered", "phone 202", "phone 503"}
        lost = {name for name in lost if not name.startswith("refused by")}
        self.assertEqual(lost, set(), self.outcomes)
        self.assertGreater(self.outcomes["answered"], 0)

    async def test_one_daemon_is_cut_off(self) -> None:
        """It refuses new calls, the others take them; no call is lost, then or afterwards."""
        await self.load(1)
        self.proxy.cut()
        await self.load(5)
        self.assertGreater(self.outcomes["refused by 2"], 0)
        self.assertEqual(self.outcomes["refused by 0"] + self.outcomes["refused by 1"], 0)
        self.assert_none_lost()
        restoring = clock.callLater(0.5, self.proxy.restore)
        await self.load(3)
        self.assertFalse(restoring.active())
        await self.until_all(redis="up")
        self.assert_none_lost()

    async def test_redis_comes_back_for_all(self) -> None:
        """Calls that daemons took alone are answered while Redis comes back."""
        self.redis.kill()
        await self.until_all(redis="down")
        returning = clock.callLater(1.5, self.redis.start)
        await self.load(4)
        self.assertFalse(returning.active())
        await self.until_all(redis="up")
        self.assert_none_lost()

    async def test_redis_goes_away_for_all(self) -> None:
        """No daemon refuses for long, since none has it: they go on alone."""
        self.redis.kill()
        await self.until_all(redis="down")
        await gatherResults([Deferred.fromCoroutine(self.place_call()) for _ in range(30)])
        await self.background.finish()
        self.assertEqual(self.outcomes["answered"], 30, self.outcomes)


class PausedDaemonTests(FleetTestCase):
    """A daemon that is stopped for a while, as a virtual machine that is moved."""

    async def test_answers_that_came_during_the_pause_count(self) -> None:
        """Another daemon replied 202 to the phones, so the PBX gets ACK, though it is late."""
        redis, wait_s = Redis(), 2.0
        self.addCleanup(redis.remove)
        await self.start_each([Shared.of(redis)] * 2, wait_ms=int(wait_s * 1000))
        self.assertEqual((await self.register(at=0)).status, 201)
        held = [self.call(0) for _ in range(16)]
        pushes = await self.pushed(len(held))
        self.daemons[0].signal(signal.SIGSTOP)
        answers = [Deferred.fromCoroutine(self.answer(1, push)) for push in pushes]
        self.assertEqual(await gatherResults(answers), [202] * len(held))
        await deferLater(clock, wait_s * 1.5)
        self.daemons[0].signal(signal.SIGCONT)
        self.assert_acknowledged(*await gatherResults(held))
