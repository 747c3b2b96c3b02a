"""Several PBXs at a real daemon: their waits, their rates, and what is recorded of them."""

from __future__ import annotations

import time

from twisted.internet.defer import gatherResults

from middlewared.simulator.generations import ANDROID_6
from middlewared.simulator.pbx import PBX
from tests.test_flow_calls import SILENT, FlowTestCase

SECTIONS = """\
[pbx:cloud]
password = geheim
roundtrip_wait_ms = 300
max_calls_per_s = 3
[pbx:office]
networks = 127.0.0.0/8
"""


class PbxTests(FlowTestCase):
    """``office`` is known by its network, ``cloud`` by its password."""

    async def start(self, sections: str = "") -> None:
        await super().start(SECTIONS + sections)
        self.cloud = PBX(
            http=self.client,
            base_url=self.stage.url,
            seconds=time.time,
            credentials=("cloud", "geheim"),
        )

    async def test_each_pbx_has_its_own_wait_and_name(self) -> None:
        """In the log line of each call, and in a metric."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        account = phone.sip_user_id
        timed_out = await self.cloud.place(account)
        self.assertEqual(timed_out.outcome, "timeout")
        self.assertLess(timed_out.answered_at - timed_out.placed_at, 3.0)
        pushed = self.push_to(phone)
        held = self.pbx.place(account, call_id="abc")
        await pushed
        cancelled = await self.cloud.cancel(account, "abc")
        self.assertEqual((cancelled.outcome, (await held).outcome), ("cancelled", "cancelled"))
        for line in (
            'middlewared_pbx_requests_total{outcome="timeout",pbx="cloud"} 1.0',
            'middlewared_pbx_requests_total{outcome="cancelled",pbx="cloud"} 1.0',
            'middlewared_pbx_requests_total{outcome="cancelled",pbx="office"} 1.0',
        ):
            await self.until_metric(line)
        self.assertRegex(self.stage.daemon.log, r"call timeout .* pbx=cloud ")
        self.assertRegex(self.stage.daemon.log, r"call cancelled .* pbx=office ")
        self.assertNotIn("geheim", self.stage.daemon.log)

    async def test_each_pbx_has_its_own_rate(self) -> None:
        """What is above it is refused at once, and the other PBX does not notice."""
        await self.start()
        cloud = await gatherResults([self.cloud.place(200_000_009) for _ in range(20)])
        outcomes = [result.outcome for result in cloud]
        self.assertGreaterEqual(outcomes.count("no-device"), 3)
        self.assertGreater(outcomes.count("overloaded"), 0)
        self.assertEqual({(r.outcome, r.status) for r in cloud} - {("no-device", 200)},
                         {("overloaded", 503)})  # fmt: skip
        office = await gatherResults([self.pbx.place(200_000_009) for _ in range(20)])
        self.assertEqual({result.outcome for result in office}, {"no-device"})
