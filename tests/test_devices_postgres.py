"""The device registry in PostgreSQL: its contract on a real server."""

from __future__ import annotations

import traceback
from contextlib import closing
from typing import Any

import attrs
import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from middlewared.database.migrations import ADD, CREATE_ADDITIONS, SchemaState, pending
from middlewared.database.postgres_database import PostgresDatabase
from middlewared.devices import queries
from middlewared.devices.interface import DeviceFilter, Registered
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.errors import ConfigError, DatabaseDown
from middlewared.model import Wakeup
from tests.contracts.devices import (
    ACCOUNT,
    DaemonHeartbeatsContract,
    DaemonStatesContract,
    DeviceRegistryContract,
    a_device,
    older_device,
    start,
    until_done,
)
from tests.servers.postgres import PostgresServer, shared_server
from tests.text_accounts import NumberedAccounts


class PostgresCase(TestCase):
    """A test with a database of its own."""

    def setUp(self) -> None:
        self.server: PostgresServer = shared_server()
        self.database = self.server.database_for(self)

    text_accounts = False

    def registry(
        self,
        url: str | None = None,
        timeout_s: float = 60.0,
        text_accounts: bool | None = None,
    ) -> PostgresRegistry:
        """A registry that is stopped when the test ends; it is not started."""
        database = PostgresDatabase(
            url=url or self.server.url(self.database),
            reactor=reactor,
            pool_size=3,
            timeout_s=timeout_s,
        )
        made = PostgresRegistry(
            database=database,
            text_accounts=self.text_accounts if text_accounts is None else text_accounts,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    async def started(self, url: str | None = None, timeout_s: float = 60.0) -> PostgresRegistry:
        """A registry that was started."""
        registry = self.registry(url, timeout_s)
        await start(registry)
        return registry


class TwoDaemonsCase(PostgresCase):
    """Two daemons at one database."""

    here: Any
    there: Any

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.here, self.there = await self.started(), await self.started()


class PostgresContractTests(TwoDaemonsCase, DeviceRegistryContract):
    """The contract of the registry."""

    async def response_log(self) -> list[tuple[str, float, bool, str]]:
        rows = self.server.sql(
            self.database,
            "select platform, roundtrip_seconds, available,"
            """ to_char(date at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
            " from response_log order by id",
        )
        return [(str(p), float(r), bool(a), str(d)) for p, r, a, d in rows]

    def another(self) -> Any:
        return self.registry()


class PostgresTextAccountTests(PostgresContractTests):
    """The same where accounts are texts, which are in a table of their own."""

    text_accounts = True

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.here, self.there = NumberedAccounts(self.here), NumberedAccounts(self.there)

    def another(self) -> Any:
        return NumberedAccounts(self.registry())

    async def test_texts_are_compared_exactly(self) -> None:
        """In case, blanks and Unicode forms; quotes and the like mean nothing."""
        registry = self.registry()
        await start(registry)
        accounts = ["a@b", "A@b", "a@B", "é", "e\u0301", "1", "01", "'", '";--', "%", "_"]
        for account in accounts:
            await registry.register(attrs.evolve(a_device(), sip_user_id=account))
        for account in accounts:
            device = await registry.find(account)
            self.assertEqual(device and device.sip_user_id, account)
        page = await registry.page()
        self.assertEqual([each.sip_user_id for each in page.devices], sorted(accounts))
        self.assertIsNone(await registry.find("a@"))

    async def test_devices_of_numbers_are_carried_over(self) -> None:
        """Once: when accounts become texts, as long as no text has a device."""
        numbers = self.registry(text_accounts=False)
        await start(numbers)
        await numbers.register(a_device())
        texts = self.registry()
        await start(texts)
        carried = attrs.evolve(a_device(), sip_user_id=str(ACCOUNT))
        self.assertEqual(await texts.find(str(ACCOUNT)), carried)
        self.assertEqual(await numbers.find(ACCOUNT), a_device())
        await numbers.register(a_device(ACCOUNT + 1))
        later = self.registry()
        await start(later)
        self.assertIsNone(await later.find(str(ACCOUNT + 1)))


class PostgresHeartbeatTests(TwoDaemonsCase, DaemonHeartbeatsContract):
    """The contract of the heartbeats."""

    async def make_older(self, daemon: str, seconds: int) -> None:
        older = f"seen_at = seen_at - interval '{seconds} seconds'"
        self.server.sql(self.database, f"update daemons set {older} where daemon = '{daemon}'")

    async def daemons(self) -> set[str]:
        return {name for (name,) in self.server.sql(self.database, "select daemon from daemons")}


class PostgresStateTests(TwoDaemonsCase, DaemonStatesContract):
    """The contract of the states."""

    async def make_state_older(self, daemon: str, seconds: int) -> None:
        older = f"update daemon_states set seen_at = seen_at - {seconds} where daemon = '{daemon}'"
        self.server.sql(self.database, older)

    async def state_count(self) -> int:
        return len(self.server.sql(self.database, "select daemon from daemon_states"))


class PostgresStartTests(PostgresCase):
    """The first connection."""

    async def test_the_schema_of_an_older_release_is_upgraded(self) -> None:
        """Its devices stay."""
        for newest, _ in pending("postgres", 0)[:-1]:
            self.database = self.server.database_for(self)
            with closing(psycopg2.connect(self.server.url(self.database))) as older, older:
                cursor = older.cursor()
                cursor.execute("create table schema_version (version integer primary key)")
                cursor.execute(CREATE_ADDITIONS)
                state = SchemaState(0)
                for number, script in pending("postgres", 0)[:newest]:
                    cursor.execute(script)
                    state = state.after(number, script)
                cursor.execute("insert into schema_version values (%s)", (state.version,))
                for number in state.additions:
                    cursor.execute(ADD.replace("?", "%s"), (number,))
                cursor.execute("select * from devices")
                device, row = older_device([each[0] for each in cursor.description or ()])
                cursor.execute(f"insert into devices values ({', '.join(['%s'] * len(row))})", row)
            registry = await self.started()
            self.assertEqual(await registry.find(ACCOUNT), device)
            self.assertEqual(await registry.report("this", redis_up=True, waiting=0), [])
            await registry.log_wakeups([Wakeup(a_device(), None)])
            self.assertEqual((await registry.count(1)).silent, 1)
            both = self.server.sql(self.database, "select count(*) from calls, text_devices")
            self.assertEqual(both, [(0,)])

    async def test_several_daemons_start_at_once(self) -> None:
        """Each of several daemons on a new database finds the whole schema."""
        await gatherResults([Deferred.fromCoroutine(self.started()) for _ in range(5)])
        installed = self.server.sql(
            self.database,
            "select version from schema_version union all select number from schema_additions",
        )
        self.assertEqual(sorted(installed), [(number,) for number, _ in pending("postgres", 0)])

    async def test_newer_schema(self) -> None:
        """The start on a database of a newer release fails."""
        await self.started()
        self.server.sql(self.database, "insert into schema_version (version) values (1000)")
        with self.assertRaises(ConfigError) as caught:
            await self.registry().start()
        self.assertIn("schema 1000", str(caught.exception))

    async def test_newer_schema_that_only_adds_something(self) -> None:
        """A program that does not know the addition starts, works, and connects again."""
        registry = await self.started()
        self.server.sql(self.database, "insert into schema_additions (number) values (1000)")
        await (await self.started()).register(a_device())
        backends = "select pg_terminate_backend(pid) from pg_stat_activity"
        self.server.sql("postgres", f"{backends} where datname = '{self.database}'")
        self.assertEqual(await until_done(lambda: registry.find(ACCOUNT)), a_device())

    async def test_unknown_database(self) -> None:
        """The start fails with the reason that libpq gives."""
        with self.assertRaises(DatabaseDown) as caught:
            await self.registry(self.server.url("missing")).start()
        self.assertIn('database "missing" does not exist', str(caught.exception))

    async def test_database_is_created_after_the_start(self) -> None:
        """A registry whose start failed works as soon as the database exists."""
        registry = self.registry(self.server.url("late"))
        with self.assertRaises(DatabaseDown):
            await registry.start()
        self.server.sql("postgres", "create database late")
        await until_done(registry.ping)
        await registry.register(a_device())

    def test_broken_url(self) -> None:
        """A URL that libpq cannot read is refused, without quoting its password."""
        for url in ("postgresql://u:secret@h:1,h:2,h:3,/d?port=1,2", "postgresql://u:secret@[h/d"):
            error = self.assertRaises(ConfigError, PostgresDatabase, url=url, reactor=reactor)
            self.assertNotIn("secret", str(error))


class PostgresConnectionTests(PostgresCase):
    """Connections and statements that fail while the server is up."""

    async def test_killed_connections_are_replaced(self) -> None:
        """No request fails when the server closes every connection."""
        registry = await self.started()
        await registry.register(a_device())
        for _ in range(3):
            self.server.sql(
                "postgres",
                "select pg_terminate_backend(pid) from pg_stat_activity"
                f" where datname = '{self.database}'",
            )
            found = [Deferred.fromCoroutine(registry.find(ACCOUNT)) for _ in range(50)]
            self.assertEqual(set(await gatherResults(found)), {a_device()})

    async def test_slow_statement_is_ended(self) -> None:
        """A row that another program locks is DatabaseDown in time; the connection survives."""
        registry = await self.started(timeout_s=0.5)
        await until_done(lambda: registry.register(a_device()))
        with closing(psycopg2.connect(self.server.url(self.database))) as other:
            other.cursor().execute("select from devices for update")
            for _ in range(5):
                with self.assertRaises(DatabaseDown):
                    await registry.touch(ACCOUNT, 1.0)
            self.assertEqual(await until_done(lambda: registry.find(ACCOUNT)), a_device())
        self.assertTrue(await until_done(lambda: registry.touch(ACCOUNT, 1.0)))

    async def test_tables_are_taken_away(self) -> None:
        """A database without its tables is down, and up when they return."""
        registry = await self.started()
        self.server.sql(self.database, "alter table devices rename to elsewhere")
        with self.assertRaises(DatabaseDown):
            await registry.find(ACCOUNT)
        self.server.sql(self.database, "alter table elsewhere rename to devices")
        self.assertIsNone(await registry.find(ACCOUNT))

    async def test_no_error_quotes_a_token(self) -> None:
        """Errors are logged with their causes, but not what the server quotes."""
        registry = await self.started()
        self.server.sql(self.database, "alter table devices drop column push_profile")
        device = a_device(token="a-secret-token")
        with self.assertRaises(DatabaseDown) as caught:
            await registry.register(device)
        text = Failure(caught.exception).getTraceback(detail="default")
        text += "".join(traceback.format_exception(caught.exception))
        self.assertNotIn("secret", text)
        self.assertIn("42703", text)  # undefined column

    async def test_calls_go_first(self) -> None:
        """A look-up for a call does not wait for the registrations that came before it."""
        registry = await self.started()
        await registry.register(a_device())
        devices = [a_device(n) for n in range(1, 501)]
        storing = [Deferred.fromCoroutine(registry.register(d)) for d in devices]
        self.assertEqual(await registry.find(ACCOUNT), a_device())
        self.assertFalse(storing[-1].called)
        await gatherResults(storing)

    async def test_large_tables_are_not_scanned(self) -> None:
        """
        A registration, a page of shared phones and a count use indexes, even before the server
        has statistics of the table.
        """
        await (await self.started()).stop()
        self.server.sql(
            self.database,
            "insert into devices select n, 'android', 'app', 'i' || n || ':t', '', '', '', '',"
            " false, '', false, '', 0, 0 from generate_series(1, 20000) as n",
        )
        phone = queries.Dialect(position="strpos", now="0").same_phone().replace("?", "'{}'")
        phone = phone.format("i7", "i7", "android", "app")
        page, _ = queries.Dialect(position="strpos", now="0").page(DeviceFilter(shared=True))
        for statement in (
            f"select from devices where sip_user_id = 1 or (true and {phone})",
            page.replace("?", "5"),
            queries.COUNT_SILENT.replace("?", "5"),
        ):
            plan = self.server.sql(self.database, f"explain {statement}")
            self.assertNotIn("Seq Scan", "\n".join(line for (line,) in plan))

    async def test_many_look_ups_at_once(self) -> None:
        """Each returns its own device or none, whichever share a statement."""
        registry = await self.started()
        for number in range(1, 300, 3):
            await registry.register(a_device(number))
        numbers = [*range(1, 300), *range(1, 300, 2), queries.LARGEST_ID]
        found = await gatherResults(
            [Deferred.fromCoroutine(registry.find(number)) for number in numbers]
        )
        expected = [a_device(n) if n < 300 and n % 3 == 1 else None for n in numbers]
        self.assertEqual(found, expected)

    async def test_look_up_sees_what_was_registered_before_it(self) -> None:
        """Although earlier look-ups still wait for all three connections."""
        registry = await self.started()
        earlier = [Deferred.fromCoroutine(registry.find(number)) for number in range(1, 50)]
        await registry.register(a_device())
        self.assertEqual(await registry.find(ACCOUNT), a_device())
        await gatherResults(earlier)

    async def test_caller_goes_away(self) -> None:
        """A look-up whose caller was cancelled does not disturb the others."""
        registry = await self.started()
        await registry.register(a_device())
        abandoned = [Deferred.fromCoroutine(registry.find(ACCOUNT)) for _ in range(20)]
        for resolve_name in abandoned:
            resolve_name.addErrback(lambda failure: failure.trap(CancelledError))
            resolve_name.cancel()
        self.assertEqual(await registry.find(ACCOUNT), a_device())

    async def test_stop_finishes_what_was_asked_for(self) -> None:
        """A registration under way is committed; a later one is refused."""
        registry = await self.started()
        under_way = Deferred.fromCoroutine(registry.register(a_device()))
        await registry.stop()
        self.assertEqual(self.successResultOf(under_way), Registered(None))
        with self.assertRaises(DatabaseDown):
            await registry.find(ACCOUNT)
        rows = self.server.sql(self.database, "select sip_user_id from devices")
        self.assertEqual(rows, [(ACCOUNT,)])
