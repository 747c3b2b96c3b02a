"""Three real daemons at one PostgreSQL and one Redis, and what their callers notice of faults."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.client import ResponseFailed

from tests.daemons import Answered
from tests.fleet import FleetTestCase, Shared, clock
from tests.servers.postgres import PostgresServer, shared_server
from tests.servers.redis import Redis, shared_cluster

COMMAND = ["-c", "import sys; from middlewared.cli.main import main; sys.exit(main())"]
CHECKOUT = Path(__file__).parent.parent


class OneAmongManyTests(FleetTestCase):
    """Three daemons at a Redis Cluster: it does not matter which is asked."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.call_id = str(uuid.uuid4())
        await self.start_fleet(Shared.of(shared_cluster()))
        await self.until_all(redis="up")
        self.assertEqual((await self.register(at=0)).status, 201)

    async def test_call_is_answered_through_any_daemon(self) -> None:
        """A call held at one daemon is answered through another, and as soon as it is."""
        for at in range(3):
            await self.rung(at, through=(at + 1) % 3)
        self.assertEqual(self.google.record.received_count, 3)

    async def test_repeats_join_at_every_daemon(self) -> None:
        """One push; all requests get the answer, later ones too."""
        first = self.call(0, call_id=self.call_id)
        (push,) = await self.pushed(1)
        repeats = [self.call(1, call_id=self.call_id), self.call(2, call_id=self.call_id)]
        await self.until_all(waiting=1)
        self.assertEqual(await self.answer(2, push), 202)
        self.assert_acknowledged(*await gatherResults([first, *repeats]))
        self.assert_acknowledged(await self.call(1, call_id=self.call_id))
        self.assertEqual(self.google.record.received_count, 1)

    async def test_caller_gives_up_at_any_daemon(self) -> None:
        """All requests end as cancelled; the call placed again at once is a new one."""
        for at in range(3):
            first = self.call(at, call_id=self.call_id)
            (push,) = await self.pushed(1)
            repeat = self.call((at + 1) % 3, call_id=self.call_id)
            await self.until_health((at + 1) % 3, waiting=1)
            cancelled = await self.cancel((at + 2) % 3, call_id=self.call_id)
            self.assert_cancelled(cancelled, await first, await repeat)
            self.assertEqual(await self.answer((at + 2) % 3, push), 404)
        again = self.call(0, call_id=self.call_id)
        (push,) = await self.pushed(1)
        self.assertEqual(await self.answer(1, push), 202)
        self.assert_acknowledged(await again)
        late = await self.cancel(2, call_id=self.call_id)
        self.assertEqual((late.status, late.header("X-Outcome")), (404, "no-call"))

    def assert_cancelled(self, *answered: Answered) -> None:
        for each in answered:
            self.assertEqual((each.status, each.text), (200, "status=NAK"))
            self.assertEqual(each.header("X-Outcome"), "cancelled")

    async def test_one_key_for_two_accounts(self) -> None:
        """A UUID that is in use by another account's call gives a call a key of its own."""
        await self.register(at=0, number=1)
        first = self.call(0, 0, call_id=self.call_id)
        (its_push,) = await self.pushed(1)
        second = self.call(1, 1, call_id=self.call_id)
        (other_push,) = await self.pushed(1)
        self.assertEqual(its_push.data["unique_key"], self.call_id)
        self.assertNotEqual(other_push.data["unique_key"], self.call_id)
        self.assertEqual(other_push.data["vg_cid"], self.call_id)
        self.assertEqual(await self.answer(2, other_push), 202)
        self.assert_acknowledged(await second)
        await self.until_health(0, waiting=1)
        self.assertEqual(await self.answer(1, its_push), 202)
        self.assert_acknowledged(await first)

    async def test_pbx_gone(self) -> None:
        """When the PBX has closed its connection, an answer at any daemon is 404."""
        held = self.call(0)
        (push,) = await self.pushed(1)
        held.cancel()
        await self.lost(held)
        await self.until_health(0, waiting=0)
        self.assertEqual(await self.answer(1, push), 404)

    async def test_daemon_killed_in_mid_call(self) -> None:
        """A repeat that waits at another daemon is answered, and so is one that comes then."""
        first = self.call(0, call_id=self.call_id)
        (push,) = await self.pushed(1)
        repeat = self.call(1, call_id=self.call_id)
        await self.until_health(1, waiting=1)
        alone = self.call(0, call_id=f"{self.call_id}-2")
        (lost_push,) = await self.pushed(1)
        self.daemons[0].signal(signal.SIGKILL)
        await self.lost(first)
        await self.lost(alone)
        self.assertEqual(await self.answer(2, push), 202)
        self.assert_acknowledged(await repeat)
        repeat = self.call(1, call_id=f"{self.call_id}-2")
        await self.until_health(1, waiting=1)
        self.assertEqual(await self.answer(2, lost_push), 202)
        self.assert_acknowledged(await repeat)

    async def lost(self, held: Deferred[Answered]) -> None:
        """The connection of a held request is gone."""
        with self.assertRaises(ResponseFailed):
            await held


class StandaloneRedisTests(FleetTestCase):
    """Three daemons at one standalone Redis."""

    async def test_repeat_is_answered_through_any_daemon(self) -> None:
        """Held at one, repeated at another, answered at the third: one push, one answer."""
        redis = Redis()
        self.addCleanup(redis.remove)
        await self.start_fleet(Shared.of(redis))
        await self.register(at=2)
        first = self.call(0, call_id="same")
        (push,) = await self.pushed(1)
        repeat = self.call(1, call_id="same")
        await self.until_health(1, waiting=1)
        self.assertEqual(await self.answer(2, push), 202)
        self.assert_acknowledged(await first, await repeat)
        self.assertEqual(self.google.record.received_count, 1)


class RedisMasterTests(FleetTestCase):
    """A master of the Cluster dies, or falls silent, while calls wait."""

    async def fails_over(self, harm: Callable[[Redis], None]) -> None:
        """No call is lost; all daemons report the fault, and recover without help."""
        cluster = shared_cluster()
        await self.start_fleet(Shared.of(cluster))
        await self.register(at=0)
        held = [self.call(number % 3) for number in range(24)]
        pushes = await self.pushed(len(held))
        victim = cluster.masters[0]
        harm(victim)
        self.addCleanup(deferToThread, cluster.recover, victim)
        answers = [
            Deferred.fromCoroutine(self.answer(number % 3, push))
            for number, push in enumerate(pushes)
        ]
        self.assertEqual(await gatherResults(answers), [202] * len(held))
        self.assert_acknowledged(*await gatherResults(held))
        await self.rung(at=0, through=1)
        await self.until_all(status="ok", redis="up")
        await self.rung(at=1, through=2)

    async def test_master_killed(self) -> None:
        """SIGKILL."""
        await self.fails_over(Redis.kill)

    async def test_master_silent(self) -> None:
        """SIGSTOP: connections stay, nothing comes back."""
        await self.fails_over(Redis.pause)


class RedisAwayTests(FleetTestCase):
    """The whole of Redis is away."""

    async def alone(self, harm: Callable[[Redis], None], restore: Callable[[Redis], None]) -> None:
        """Each daemon goes on with its own calls; all is as it was when Redis is back."""
        redis = Redis()
        self.addCleanup(redis.remove)
        await self.start_fleet(Shared.of(redis), daemons=2)
        await self.register(at=0)
        before = self.call(0)
        (push_before,) = await self.pushed(1)
        harm(redis)
        await self.until_all(status="degraded", redis="down", database="up")
        await self.assert_dependency(1, "redis", up=0)
        self.assertEqual(await self.answer(0, push_before), 202)
        self.assert_acknowledged(await before)
        await self.rung(at=1)
        held = self.call(0)
        (push,) = await self.pushed(1)
        self.assertEqual(await self.answer(1, push), 503)
        await self.give_up(at=0, not_at=1)
        restore(redis)
        await self.until_all(status="ok", redis="up")
        await self.assert_dependency(1, "redis", up=1)
        self.assertEqual(await self.answer(1, push), 202)
        self.assert_acknowledged(await held)
        await self.rung(at=1, through=0)

    async def give_up(self, at: int, not_at: int) -> None:
        """A call is cancelled at its own daemon; at another it cannot be known whether it waits."""
        held = self.call(at, call_id="given-up")
        await self.pushed(1)
        self.assert_service_down(await self.cancel(not_at, call_id="given-up"))
        cancelled = await self.cancel(at, call_id="given-up")
        self.assertEqual((cancelled.status, cancelled.header("X-Outcome")), (200, "cancelled"))
        self.assertEqual((await held).header("X-Outcome"), "cancelled")

    async def test_killed(self) -> None:
        """SIGKILL; it comes back empty."""
        await self.alone(Redis.kill, Redis.start)

    async def test_silent(self) -> None:
        """SIGSTOP."""
        await self.alone(Redis.pause, Redis.resume)


class DatabaseAwayTests(FleetTestCase):
    """The primary is away; account 0 was seen at daemon 0, account 1 at none."""

    async def start_replicated(self) -> tuple[PostgresServer, PostgresServer]:
        primary = PostgresServer()
        self.addCleanup(primary.stop)
        primary.start()
        standby = PostgresServer(standby_of=primary)
        self.addCleanup(standby.stop)
        standby.start()
        await self.start_fleet(Shared.of(shared_cluster(), primary, standby))
        await self.register(at=0)
        written = primary.sql("postgres", "select pg_current_wal_insert_lsn()::text")[0][0]
        lags = f"select '{written}'::pg_lsn > pg_last_wal_replay_lsn()"
        while standby.sql("postgres", lags) == [(True,)]:
            await deferLater(clock, 0.02)
        return primary, standby

    async def without(self) -> None:
        """What goes on, and what is refused at once, without the database."""
        known = self.call(0)
        self.assert_service_down(unknown := await self.call(0, 1))
        self.assertEqual(
            (unknown.text, unknown.header("X-Outcome")), ("status=NAK", "service-down")
        )
        self.assert_service_down(await self.register(at=1, number=2))
        (push,) = await self.pushed(1)
        self.assertEqual(await self.answer(2, push), 202)
        self.assert_acknowledged(await known)
        await self.until_all(status="degraded", redis="up", database="down")
        await self.assert_dependency(2, "database", up=0)

    async def recovered(self) -> None:
        """All is as before, and what was confirmed before is known."""
        await self.until_all(status="ok", database="up")
        await self.assert_dependency(2, "database", up=1)
        await self.rung(at=1, through=2)
        self.assertEqual((await self.register(at=1, number=2)).status, 201)
        await self.rung(at=2, number=2, through=0)

    async def test_primary_killed_and_standby_promoted(self) -> None:
        """Until the promotion calls to known devices go on, after it everything."""
        primary, standby = await self.start_replicated()
        primary.kill()
        await self.without()
        standby.promote()
        await self.recovered()

    async def test_primary_silent_and_standby_promoted(self) -> None:
        """A primary that hangs is left for the new one, though it closes no connection."""
        primary, standby = await self.start_replicated()
        primary.pause()
        await self.without()
        standby.promote()
        await self.recovered()

    async def test_whole_database_silent_for_a_while(self) -> None:
        """All recovers without help when the servers go on."""
        primary, standby = await self.start_replicated()
        standby.pause()
        primary.pause()
        await self.without()
        primary.resume()
        standby.resume()
        await self.recovered()


class StartTests(FleetTestCase):
    """Daemons that start, and the schema."""

    async def test_start_before_database_and_redis(self) -> None:
        """A daemon that starts first refuses calls, is starting, and finds both."""
        database, redis = PostgresServer(), Redis()
        self.addCleanup(database.stop)
        self.addCleanup(redis.remove)
        redis.kill()
        await self.start_fleet(Shared.of(redis, database), daemons=2)
        await self.until_all(status="starting")
        self.assert_service_down(await self.register(at=0))
        self.assert_service_down(await self.call(0))
        redis.start()
        database.start()
        await self.until_all(status="ok", database="up", redis="up")
        self.assertEqual((await self.register(at=0)).status, 201)
        await self.rung(at=1, through=0)

    async def test_newer_schema(self) -> None:
        """A database that a newer release has used stops the start: a plain line, exit code 1."""
        config = self.empty_database()
        self.assertEqual(await self.migrate(config), 0)
        self.sql("insert into schema_version (version) values (99) returning version")
        code, output = await self.refused_start(config)
        self.assertEqual(code, 1)
        self.assertIn("[database] url: the database has schema 99", output)
        self.assertNotIn("Traceback", output)

    async def test_migrate_at_several_places_at_once(self) -> None:
        """Each ends well, the schema is made once, and a repeat changes nothing."""
        config = self.empty_database()
        at_once = [Deferred.fromCoroutine(self.migrate(config)) for _ in range(4)]
        self.assertEqual(await gatherResults(at_once), [0, 0, 0, 0])
        made = self.sql("select * from schema_version")
        self.assertEqual(await self.migrate(config), 0)
        self.assertEqual(self.sql("select * from schema_version"), made)

    def empty_database(self) -> str:
        """A configuration with a new database."""
        self.database = shared_server().create_database()
        return f"[database]\nurl = {shared_server().url(self.database)}\n"

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return shared_server().sql(self.database, statement)

    async def migrate(self, config: str) -> int:
        """``middlewared migrate``; its exit code."""
        _, err, code = await getProcessOutputAndValue(
            sys.executable,
            [*COMMAND, "migrate", "--config", str(self.write_config(config))],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            reactor=self.spawner,
        )
        self.assertEqual(err, b"")
        return int(code)
