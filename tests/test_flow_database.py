"""The whole daemon while its PostgreSQL is down, at the start and later."""

from __future__ import annotations

import json

from middlewared.simulator.generations import ANDROID_6
from tests.servers.postgres import PostgresServer
from tests.test_flow_calls import FIRST_ACCOUNT, FlowTestCase


class DatabaseTests(FlowTestCase):
    """A server of its own, which the test starts and kills."""

    def setUp(self) -> None:
        super().setUp()
        self.server = PostgresServer()
        self.addCleanup(self.server.stop)
        self.section = f"[database]\nurl = {self.server.url('postgres')}\n"

    async def until_health(self, status: str) -> None:
        """Ask until it is so."""
        while json.loads((await self.get(self.stage.url + "/health/")).text)["status"] != status:
            pass

    async def test_start_without_a_database(self) -> None:
        """Prompt refusals until it is there; then the schema is made, and all works."""
        await self.start(self.section)
        await self.until_health("degraded")
        refused = await self.call()
        self.assertEqual((refused.status, refused.outcome), (503, "service-down"))
        self.server.start()
        await self.until_health("ok")
        self.assertEqual((await self.call()).outcome, "no-device")
        await self.phone(ANDROID_6)
        self.assertEqual((await self.call()).outcome, "answered")

    async def test_known_devices_ring_while_it_is_away(self) -> None:
        """Others are service-down; the answers of that time are in the response log later."""
        self.server.start(synchronous_commit="on")
        await self.start(self.section)
        await self.phone(ANDROID_6)
        self.server.kill()
        await self.until_health("degraded")
        self.assertEqual((await self.call()).outcome, "answered")
        self.assertEqual((await self.call(1)).outcome, "service-down")
        self.server.start()
        await self.until_health("ok")
        self.assertEqual((await self.call(1)).outcome, "no-device")
        await self.stage.daemon.stop()
        rows = self.server.sql("postgres", "select platform, available from response_log")
        self.assertEqual(rows, [("android", True)])
        device = self.server.sql("postgres", "select sip_user_id from devices")
        self.assertEqual(device, [(FIRST_ACCOUNT,)])
