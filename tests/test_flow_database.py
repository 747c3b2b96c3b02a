"""The whole daemon while its PostgreSQL is down, at the start and later."""

from __future__ import annotations

import json
import subprocess

from twisted.internet import reactor
from twisted.internet.task import deferLater

from middlewared.simulator.generations import ANDROID_6
from tests.documents import commands_of
from tests.servers.postgres import PostgresServer, program
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
            await deferLater(reactor, 0.02)

    async def test_start_without_a_database(self) -> None:
        """It is starting, with prompt refusals, until it is there; then the schema is made."""
        await self.start(self.section)
        health = await self.get(self.stage.url + "/health/")
        self.assertEqual((health.status, json.loads(health.text)), (503, {"status": "starting"}))
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

    async def test_restore_while_it_runs(self) -> None:
        """The commands of docs/operating.md: nothing is made in the database that is restored."""
        self.server.start()
        await self.start(self.section)
        await self.phone(ANDROID_6)
        self.run_recipe("pg_dump")
        self.run_recipe("dropdb")
        await self.until_health("degraded")
        self.run_recipe("createdb")
        restore_it = "the database has no schema, or an older one; restore it"
        await self.has_logged(self.stage.daemon, restore_it)
        log = self.stage.daemon.log
        self.assertEqual(await self.database(), "down")
        self.assertEqual((await self.call()).outcome, "answered")  # it remembers the device
        self.run_recipe("pg_restore")
        await self.until_health("ok")
        self.assertEqual((await self.call()).outcome, "answered")
        self.assertEqual(log.count("database schema"), log.count("installed"))
        self.assertNotIn("installed", self.stage.daemon.log[len(log) :])

    async def database(self) -> str:
        """The database, as /health/ reports it."""
        return str(json.loads((await self.get(self.stage.url + "/health/")).text)["database"])

    def run_recipe(self, name: str) -> None:
        """Run this command of the recipe, at the server of this test."""
        commands = commands_of("docs/operating.md")
        (line,) = (each.text for each in commands if each.program == name)
        line = line.replace("-d middlewared", "-d postgres").replace(" middlewared", " postgres")
        line = line.replace("-h db1", f"-h 127.0.0.1 -p {self.server.port} -U postgres")
        first, *arguments = line.split()
        if first in ("dropdb", "createdb"):
            arguments += ["--maintenance-db", "template1"]
        subprocess.run([program(first), *arguments], check=True, cwd=self.directory)
