"""Which calls are renewed, and what a renewal leaves that takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.model import Call, IncomingCall, Outcome, Settlement
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls
from middlewared.rendezvous.redis.renewals import Renewals

Renewed = tuple[Settlement | None, str]
WAIT_S = 20.0


class Records:
    """Redis, for renewals: it replies when the test does."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Renewed]] = []

    async def renew(self, call: Call, waiter_ids: Sequence[str], *more: Any) -> Renewed:
        self.asked.append(Deferred())
        return await self.asked[-1]


class RenewalsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.left: list[tuple[HeldCall, str]] = []
        self.records = Records()
        self.held = HeldCalls(
            clock=self.clock,
            timed_out=lambda *_: None,
            left=lambda _: None,
            pushes_changed=lambda _: None,
        )
        self.renewals = Renewals(
            clock=self.clock,
            background=Background(),
            held=self.held,
            shared=self.records,  # type: ignore[arg-type]
            nodes=None,  # type: ignore[arg-type]  # no round is begun
            renewed=lambda _: None,
            left=lambda *left: self.left.append(left),
        )
        call = Call("key", IncomingCall(1, "2", call_id="abc"), 0.0, WAIT_S, 0.0, False)
        self.call = self.held.add(call, left_s=WAIT_S)
        self.waiter = self.held.add_waiter(self.call, "daemon/1", first=True)

    def test_a_waiter_that_leaves_meanwhile_is_reported(self) -> None:
        """Whatever comes of the renewal: Redis may have carried it out after the removal."""
        for result in ((None, ""), RendezvousDown("away")):
            waiter = self.held.add_waiter(self.call, "daemon/2")
            self.renewals.renew_later(self.call)
            waiter.leave()
            self.assertEqual(self.left, [])
            reply = self.records.asked[-1]
            reply.callback(result) if isinstance(result, tuple) else reply.errback(result)
            self.assertEqual(self.left, [(self.call, "daemon/2")])
            self.left.clear()

    def test_a_waiter_of_a_call_that_is_cancelled_meanwhile_is_reported(self) -> None:
        """The record may be that of the call that the PBX has placed again at once."""
        self.renewals.renew_later(self.call)
        self.held.settle(self.call, Settlement(Outcome.CANCELLED))
        self.records.asked[0].callback((None, ""))
        self.assertEqual(self.left, [(self.call, "daemon/1")])

    def test_a_call_past_its_deadline_is_not_renewed(self) -> None:
        """
        A process that was paused may learn of it before its timer fires; the record may be that
        of a later call with the same key.
        """
        self.clock.rightNow += WAIT_S + 1.0
        self.renewals.renew_later(self.call)
        self.assertEqual(self.records.asked, [])
