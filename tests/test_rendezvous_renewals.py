"""Which calls are renewed, and what a renewal leaves that takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.model import Call, IncomingCall, Outcome, Settlement
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls
from middlewared.rendezvous.redis.renewals import AT_ONCE, Renewals

Renewed = tuple[Settlement | None, str]
WAIT_S = 20.0
TROUBLED = SimpleNamespace(troubled_at=-1.0)
"""Nodes that had trouble before the test."""


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
            nodes=TROUBLED,  # type: ignore[arg-type]
            renewed=lambda _: None,
            left=lambda *left: self.left.append(left),
        )
        self.call = self.hold("key")

    def hold(self, key: str, wait_s: float = WAIT_S) -> HeldCall:
        """A call with a waiter."""
        call = Call(key, IncomingCall(1, "2", call_id=key), 0.0, wait_s, 0.0, False)
        held = self.held.add(call, left_s=wait_s)
        self.held.add_waiter(held, "daemon/1", first=True)
        return held

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

    def test_a_call_that_ends_meanwhile_leaves_no_renewal_behind(self) -> None:
        """Its deadline passes in its turn; Redis knows all others then."""
        for number in range(1, AT_ONCE):
            self.hold(str(number))
        self.hold("short", wait_s=6.0)
        self.clock.advance(5.0)
        self.renewals.renew_all()
        self.assertTrue(self.renewals.behind)
        self.clock.rightNow += 2.0
        for reply in self.records.asked[:AT_ONCE]:
            reply.callback((None, ""))
        self.assertEqual(len(self.records.asked), AT_ONCE)
        self.assertFalse(self.renewals.behind)
