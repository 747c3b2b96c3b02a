"""Calls whose pushes and answers go through different daemons."""

from __future__ import annotations

import signal
import uuid

from twisted.web.client import ResponseFailed

from middlewared.simulator.generations import ANDROID_6, FLUTTER_IOS
from middlewared.simulator.phone import Phone
from middlewared.simulator.record import GooglePush
from middlewared.simulator.scripts import Deliver, Stall
from tests.fleet import Shared
from tests.pushing import SILENT, SLOW, PushingTestCase
from tests.servers.redis import Redis


class SeveralDaemonsTests(PushingTestCase):
    """Two daemons that share a PostgreSQL and a Redis."""

    calls = "roundtrip_wait_ms = 3000\nresend_interval_ms = 1000\n"  # pushes at 0 and 1 s

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        redis = Redis()
        self.addCleanup(redis.remove)
        shared = Shared.of(redis)
        section = f"[database]\n{shared.database}\n[redis]\n{shared.redis}\n"
        self.ios = await self.apple("ios")
        await self.start([section, section])

    async def test_daemon_killed_after_its_push(self) -> None:
        """
        The PBX repeats its call at another daemon, which knows that the push was accepted or
        in flight: a "once" device gets no second one, others get the next of the series, and
        the phones' answers find their calls.
        """
        taken, under_way = [await self.phone(FLUTTER_IOS, self.ios) for _ in range(2)]
        android = await self.phone(ANDROID_6, reaction=SLOW)
        self.ios.server.scripts.for_token(under_way.token, Deliver(), Stall())
        phones = {str(uuid.uuid4()): phone for phone in (taken, under_way, android)}
        first = [self.call(phone, call_id=call_id) for call_id, phone in phones.items()]
        for platform in ("apns", "android"):
            accepted = rf'middlewared_pushes_total\{{.*platform="{platform}".*result="accepted"\}}'
            await self.until_metric(accepted, 1)
        await self.pushed(under_way, 1)
        await self.get(self.daemons[0].url("/health/"))
        self.daemons[0].signal(signal.SIGKILL)
        for call in first:
            with self.assertRaises(ResponseFailed):
                await call
        self.lead_to(1)
        again = [self.call(phone, call_id=call_id, at=1) for call_id, phone in phones.items()]
        self.assertEqual(await self.outcomes(*again), ["answered"] * 3)
        self.assertEqual([len(phone.pushes) for phone in (taken, under_way)], [1, 1])
        await self.until(lambda: all(phone.answers for phone in phones.values()))
        self.assertEqual([each.available for each in taken.answers], [True])
        self.assertEqual(attempts(android), [1, 2])

    async def test_refusals_through_different_daemons(self) -> None:
        """
        They are counted together: as many as pushes settle the call, fewer do not. Late
        answers are counted too, wherever the call waited.
        """
        refusing, changing, late = [await self.phone(ANDROID_6, reaction=SILENT) for _ in range(3)]
        calls = [self.call(phone) for phone in (refusing, changing, late)]
        for phone, at in ((refusing, 0), (changing, 1)):
            await self.pushed(phone, 2)
            self.assertEqual(await self.answer(phone, False, at), 202)
        self.assertEqual([call.called for call in calls], [False] * 3)
        self.assertEqual(await self.answer(refusing, False, 1), 202)
        self.assertEqual(await self.answer(changing, True, 0), 202)
        self.assertEqual(await self.outcomes(*calls), ["unavailable", "answered", "timeout"])
        counted = r'middlewared_late_answers_total\{.*platform="android".*\}'
        while not await self.metric(counted, at=1):  # Redis gets a time-out after the PBX does
            self.assertEqual(await self.answer(late, True, 1), 404)


def attempts(phone: Phone) -> list[int]:
    """The attempts of a call that an Android phone received."""
    return [int(push.data["attempt"]) for push in phone.pushes if isinstance(push, GooglePush)]
