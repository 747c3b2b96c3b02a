"""What several daemons keep of one call, and what a database that is away costs."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from middlewared.config import read_config
from middlewared.history.interface import CallSearch, KeptCall
from middlewared.service.storage import choose_storage
from tests.fleet import FIRST_ACCOUNT, FleetTestCase, Shared, clock
from tests.servers.postgres import PostgresServer
from tests.servers.redis import Redis, shared_cluster


class HistoryFleetCase(FleetTestCase):
    """Daemons, and their history read from outside."""

    async def open_history(self) -> None:
        config = read_config(self.directory / "daemon0.ini", {})
        self.storage = choose_storage(config, reactor=reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.storage.devices.stop()))
        await self.storage.devices.start()

    async def kept(self, complete: Callable[[KeptCall], Any] = bool, **wanted: Any) -> KeptCall:
        """The only call that matches, once it is kept and complete."""
        while True:
            page = await self.storage.history.search(CallSearch(**wanted))
            self.assertLessEqual(len(page.calls), 1)
            if page.calls and complete(page.calls[0]):
                return page.calls[0]
            await deferLater(clock, 0.05)

    async def metric(self, at: int, name: str) -> float:
        text = (await self.get(self.daemons[at].url("/metrics", "metrics"))).text
        match = re.search(rf"(?m)^{name} (\S+)$", text)
        return float(match[1]) if match else 0.0


class ManyDaemonsTests(HistoryFleetCase):
    """Three daemons at a Redis Cluster and one database."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.call_id = str(uuid.uuid4())
        shared = Shared.of(shared_cluster())
        await self.start_each([shared] * 3, wait_ms=2000)
        await self.open_history()
        self.assertEqual((await self.register(at=0)).status, 201)

    async def test_one_call_at_three_daemons(self) -> None:
        """Held at one, repeated at another, answered and reported at the third: one call."""
        first = self.call(0, call_id=self.call_id)
        (push,) = await self.pushed(1)
        repeat = self.call(1, call_id=self.call_id)
        await self.until_health(1, waiting=1)
        self.assertEqual(await self.answer(2, push), 202)
        self.assert_acknowledged(*await gatherResults([first, repeat]))
        url = self.daemons[2].url("/api/hangup-reason/")
        fields = {"sip_user_id": str(FIRST_ACCOUNT), "unique_key": self.call_id}
        self.assertEqual((await self.post(url, **fields, reason="busy")).status, 200)

        def is_complete(call: KeptCall) -> bool:
            return bool(call.joined and call.reports and call.answers)

        call = await self.kept(is_complete, call_id=self.call_id)
        self.assertEqual((len(call.joined), len(call.reports)), (1, 1))
        self.assertEqual([answer.decided for answer in call.answers], [True])
        self.assertTrue(call.daemon.endswith(f":{self.daemons[0].pid}"))

    async def test_late_answer_at_another_daemon(self) -> None:
        """It is joined to the call that timed out."""
        held = self.call(0, call_id=self.call_id)
        (push,) = await self.pushed(1)
        self.assertEqual((await held).header("X-Outcome"), "timeout")
        self.assertEqual(await self.answer(1, push), 404)
        call = await self.kept(lambda call: call.answers, unique_key=self.call_id)
        (answer,) = call.answers
        self.assertIsNotNone(answer.late_milliseconds)
        self.assertIn("too late", call.verdict)


class ManyDaemonsAndRegistrationsTests(HistoryFleetCase):
    """Three daemons, and an app that answers by registering."""

    calls = "answer_by_registration = yes\n"

    async def test_registration_at_another_daemon(self) -> None:
        """It is the answer of the call."""
        await self.start_each([Shared.of(shared_cluster())] * 3, wait_ms=2000)
        await self.open_history()
        self.assertEqual((await self.register(at=0)).status, 201)
        held = self.call(0, call_id="one")
        await self.pushed(1)
        while not json.loads((await self.registered(1)).text)["answered"]:
            await deferLater(clock, 0.05)
        self.assert_acknowledged(await held)
        call = await self.kept(call_id="one")
        self.assertEqual([(each.available, each.decided) for each in call.answers], [(True, True)])


class DatabaseAwayTests(HistoryFleetCase):
    """A database that is away while calls go on."""

    async def test_calls_of_the_outage_are_kept_afterwards(self) -> None:
        """Calls are answered as always, and written when the database is back."""
        server, redis = PostgresServer(), Redis()
        self.addCleanup(server.stop)
        self.addCleanup(redis.remove)
        server.start()
        await self.start_fleet(Shared.of(redis, server), daemons=1)
        self.assertEqual((await self.register(at=0)).status, 201)
        await self.rung(0)
        server.kill()
        await self.until_health(0, database="down")
        for _ in range(3):
            await self.rung(0)
        server.start()
        await self.until_health(0, database="up")
        await self.open_history()
        found = 0
        while found < 4:
            page = await self.storage.history.search(CallSearch(sip_user_id=str(FIRST_ACCOUNT)))
            found = len(page.calls)
            await deferLater(clock, 0.05)
        self.assertEqual({call.record.outcome for call in page.calls}, {"answered"})
        self.assertEqual(await self.metric(0, "middlewared_history_lost_total"), 0)
