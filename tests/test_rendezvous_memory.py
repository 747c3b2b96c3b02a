"""The rendezvous inside one process."""

from __future__ import annotations

import time

from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from middlewared.model import DeviceKind, LateAnswer, Platform
from middlewared.rendezvous.late import REMEMBERED_S, LateCalls, WokenDevice
from middlewared.rendezvous.memory import MemoryRendezvous
from tests.contracts.rendezvous import ACCEPTED, RendezvousContract, a_call, an_answer


class MemoryRendezvousTests(RendezvousContract, TestCase):
    """Both members are the same process."""

    def setUp(self) -> None:
        self.late = []
        self.here = self.there = MemoryRendezvous(clock=reactor, late=self.late.append)
        self.addCleanup(self.here.stop)

    async def moment_after(self, deadline: float) -> None:
        seconds = deadline - time.time() + 0.05
        await deferLater(reactor, seconds)

    async def test_late_answer_is_not_taken_for_an_unknown_one(self) -> None:
        """However many come at once, while a flood of unknown keys is dropped unread."""
        waiter = await self.here.join(a_call(wait_s=0.05))
        waiter.kind = DeviceKind("com.example.app", Platform.GCM)
        await waiter.settled
        key = waiter.call.unique_key
        self.assertTrue(self.here.knows_key(key))
        self.assertFalse(self.here.rules_out_key(key))

    async def test_waiters_are_settled_before_answer_returns(self) -> None:
        """Nothing stands between the phone's answer and the held request."""
        waiter = await self.here.join(a_call())
        answering = self.there.answer(waiter.call.unique_key, an_answer())
        self.assertIs(await answering, ACCEPTED)
        self.assertTrue(waiter.settled.called)


class LateCallsTests(SynchronousTestCase):
    """How long an answer is late, before it is unknown."""

    def test_until_the_end_of_the_window(self) -> None:
        """Answers inside it are reported with their lateness, one after it is not."""
        clock, reported = Clock(), list[LateAnswer]()
        calls = LateCalls(clock=clock, late=reported.append)
        calls.add("key", WokenDevice(100, DeviceKind("com.example.app", Platform.GCM)))
        clock.advance(REMEMBERED_S)
        self.assertTrue(calls.answered("key", an_answer()))
        clock.advance(0.1)
        self.assertFalse(calls.answered("key", an_answer()))
        self.assertEqual([late.late_s for late in reported], [REMEMBERED_S])
