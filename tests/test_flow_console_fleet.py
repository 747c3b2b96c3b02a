"""The console of one of several daemons shows all of them."""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet.defer import Deferred

from tests.console import ADMIN, ConsoleClient, users_file
from tests.fleet import FIRST_ACCOUNT, FleetTestCase, Shared
from tests.servers.postgres import PostgresServer
from tests.servers.redis import Redis, shared_cluster


class ConsoleFleetTests(ConsoleClient, FleetTestCase):
    """Three daemons at one PostgreSQL database."""

    sections = ADMIN

    async def start_consoles(self, shared: Shared, daemons: int = 3) -> None:
        (self.directory / "console-users").write_text(users_file())
        await self.start_fleet(shared, daemons)
        self.admin = self.daemons[0].url("", "admin")

    async def test_all_daemons_and_their_held_calls(self) -> None:
        """A call that another daemon holds is named, and its page shows it until it is over."""
        await self.start_consoles(Shared.of(shared_cluster()))
        await self.until_document("/api/overview", lambda found: len(found["daemons"]) == 3)
        await self.register(at=0)
        held = self.call(2)
        (push,) = await self.pushed(1)

        def is_named(found: Any) -> bool:
            calls = [call for each in found["daemons"] for call in each["held_calls"]]
            return [call["sip_user_id"] for call in calls] == [FIRST_ACCOUNT]

        await self.until_document("/api/overview", is_named)
        key = str(push.data["unique_key"])
        page = await self.ask(f"/calls/{key}")
        self.assertEqual(page.status, 200)
        self.assertIn("waiting", page.text)
        self.assertIn(key, (await self.ask(f"/accounts/{FIRST_ACCOUNT}")).text)
        self.assertEqual(await self.answer(1, push), 202)
        self.assert_acknowledged(await held)
        call = await self.until_document(f"/api/calls/{key}", lambda call: call["answers"])
        self.assertEqual(call["outcome"], "answered")
        path = f"/api/devices/{FIRST_ACCOUNT}/test-call"
        test_call = Deferred.fromCoroutine(self.ask(path, "POST"))
        (push,) = await self.pushed(1)
        self.assertEqual(await self.answer(2, push), 202)
        self.assertIn('"outcome": "answered"', (await test_call).text)

    async def test_daemons_that_stop_and_that_die(self) -> None:
        """One that stops is gone at once, one that was killed is lost."""
        await self.start_consoles(Shared.of(shared_cluster()))
        await self.until_document(
            "/api/overview",
            lambda found: [each["health"] for each in found["daemons"]] == ["ok"] * 3,
        )
        await self.daemons[1].stop()
        await self.until_document("/api/overview", lambda found: len(found["daemons"]) == 2)
        self.daemons[2].signal(signal.SIGKILL)
        await self.until_document(
            "/api/overview",
            lambda found: {each["health"] for each in found["daemons"]} == {"ok", "lost"},
        )

    async def test_the_database_is_away(self) -> None:
        """Pages say so and show what this daemon knows; documents of the past are 503."""
        server, redis = PostgresServer(), Redis()
        self.addCleanup(server.stop)
        self.addCleanup(redis.remove)
        server.start()
        await self.start_consoles(Shared.of(redis, server), daemons=1)
        server.kill()
        overview = await self.until_document("/api/overview", lambda found: not found["complete"])
        self.assertEqual(overview["dependencies"]["redis"], "up")
        self.assertIn("The database does not answer", (await self.ask("/")).text)
        answered = await self.ask("/api/calls")
        self.assertEqual(answered.status, 503)
        self.assertTrue(answered.header("Retry-After"))
        self.assertEqual((await self.ask("/calls")).status, 503)
