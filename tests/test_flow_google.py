"""Faults of Google do not lose calls to phones that refuse repeats of a push."""

from __future__ import annotations

from middlewared.simulator.generations import ANDROID_6
from middlewared.simulator.http1_server import BreakOff, HttpReply, HttpStep
from middlewared.simulator.phone import Phone, Reaction
from middlewared.simulator.record import GooglePush
from middlewared.simulator.scripts import Deliver, ResetConnection, Stall
from tests.test_flow_calls import FlowTestCase

# From push to answer; meanwhile this app refuses repeats.
SLOW = Reaction(1.2)


class GoogleFaultTests(FlowTestCase):
    """Each fault hits the first push of the call, which reaches the phone."""

    calls = "roundtrip_wait_ms = 4000\nresend_interval_ms = 1000\n"

    async def meet(self, *fault: HttpStep, push_profile: str | None = None) -> Phone:
        """A call is answered despite ``fault``; returns the phone."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SLOW, push_profile=push_profile)
        self.stage.google.scripts.for_next(1, Deliver(), *fault)
        self.assertEqual((await self.call()).outcome, "answered")
        self.assertTrue(all(isinstance(push, GooglePush) for push in phone.pushes))
        return phone

    async def test_connection_lost_for_a_phone_that_wants_one_push(self) -> None:
        """It answers before the push would be repeated."""
        phone = await self.meet(ResetConnection(), push_profile="once")
        self.assertEqual(len(phone.pushes), 1)

    async def test_success_whose_body_breaks_off(self) -> None:
        """The status counts: nothing is repeated to a phone that wants one push."""
        phone = await self.meet(BreakOff(HttpReply(200, b"{}" * 50)), push_profile="once")
        self.assertEqual(len(phone.pushes), 1)

    async def test_silence(self) -> None:
        """Google has the push but does not answer."""
        phone = await self.meet(Stall(), push_profile="once")
        self.assertEqual(len(phone.pushes), 1)
