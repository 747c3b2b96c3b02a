"""The device registry in a SQLite file: its contract, and faults of disks and processes."""

from __future__ import annotations

import os
import resource
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

import middlewared
from middlewared.database.migrations import ADD, CREATE_ADDITIONS, SchemaState, pending
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.devices.interface import DeviceFilter, Registered
from middlewared.devices.queries import COLUMNS, COUNT, COUNT_SILENT, Dialect
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
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
from tests.text_accounts import NumberedAccounts

STARTED_AT_ONCE = """
import sys
from pathlib import Path
from twisted.internet import reactor, task
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
async def main(reactor, path):
    database = SqliteDatabase(path=Path(path), reactor=reactor, timeout_s=120)
    registry = SqliteRegistry(database=database)
    await registry.start()
    await registry.ping()
    await registry.stop()
task.react(lambda *args: task.ensureDeferred(main(*args)), sys.argv[1:])
"""


class SqliteCase(TestCase):
    """A test with a database file of its own."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.mkdir(parents=True)
        self.path /= "devices.sqlite3"

    text_accounts = False

    def registry(
        self,
        path: Path | None = None,
        timeout_s: float = 60.0,
        text_accounts: bool | None = None,
    ) -> SqliteRegistry:
        """A registry that is stopped when the test ends; it is not started."""
        database = SqliteDatabase(path=path or self.path, reactor=reactor, timeout_s=timeout_s)
        made = SqliteRegistry(
            database=database,
            text_accounts=self.text_accounts if text_accounts is None else text_accounts,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    async def started(self, timeout_s: float = 60.0) -> SqliteRegistry:
        """A registry that was started on the test's file."""
        registry = self.registry(timeout_s=timeout_s)
        await start(registry)
        return registry

    def sql(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements on the file from outside; the rows of the last one."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            rows: list[tuple[object, ...]] = []
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            return rows

    async def refused(self, path: Path) -> str:
        """Why a registry on ``path`` does not start."""
        registry = self.registry(path)
        with self.assertRaises(ConfigError) as caught:
            await registry.start()
        problems: list[str] = caught.exception.lines
        (problem,) = problems
        self.assertTrue(problem.startswith("[database] url: "), problem)
        return problem


class TwoDaemonsCase(SqliteCase):
    """Two daemons on one file."""

    here: Any
    there: Any

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.here, self.there = await self.started(), await self.started()


class SqliteContractTests(TwoDaemonsCase, DeviceRegistryContract):
    """The contract of the registry."""

    async def response_log(self) -> list[tuple[str, float, bool, str]]:
        rows = self.sql("select platform, roundtrip_seconds, available, date from response_log")
        return [(str(p), float(str(r)), bool(a), str(d)) for p, r, a, d in rows]

    def another(self) -> Any:
        return self.registry()


class SqliteTextAccountTests(SqliteContractTests):
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


class SqliteHeartbeatTests(TwoDaemonsCase, DaemonHeartbeatsContract):
    """The contract of the heartbeats."""

    async def make_older(self, daemon: str, seconds: int) -> None:
        older = f"seen_at = seen_at - {seconds}"
        self.sql(f"update daemons set {older} where daemon = '{daemon}'")

    async def daemons(self) -> set[str]:
        return {str(name) for (name,) in self.sql("select daemon from daemons")}


class SqliteStateTests(TwoDaemonsCase, DaemonStatesContract):
    """The contract of the states."""

    async def make_state_older(self, daemon: str, seconds: int) -> None:
        older = f"update daemon_states set seen_at = seen_at - {seconds} where daemon = '{daemon}'"
        self.sql(older)

    async def state_count(self) -> int:
        return len(self.sql("select daemon from daemon_states"))


class SqliteStartTests(SqliteCase):
    """Opening the file."""

    async def test_the_schema_of_an_older_release_is_upgraded(self) -> None:
        """Its devices stay."""
        for newest, _ in pending("sqlite", 0)[:-1]:
            self.path = self.path.with_suffix(f".{newest}")
            state = SchemaState(0)
            with closing(sqlite3.connect(self.path)) as older, older:
                for number, script in pending("sqlite", 0)[:newest]:
                    older.executescript(script)
                    state = state.after(number, script)
                older.execute(f"pragma user_version = {state.version}")
                older.execute(CREATE_ADDITIONS)
                older.executemany(ADD, [(number,) for number in state.additions])
                columns = [each[0] for each in older.execute("select * from devices").description]
                device, row = older_device(columns)
                older.execute(f"insert into devices values ({', '.join('?' * len(row))})", row)
            registry = await self.started()
            self.assertEqual(await registry.find(ACCOUNT), device)
            self.assertEqual(await registry.report("this", redis_up=True, waiting=0), [])
            await registry.log_wakeups([Wakeup(a_device(), None)])
            self.assertEqual((await registry.count(1)).silent, 1)
            self.assertEqual(self.sql("select count(*) from calls, text_devices"), [(0,)])

    async def test_file_is_for_its_owner_alone(self) -> None:
        """Push tokens are secrets."""
        await self.started()
        files = {path.name: path.stat().st_mode & 0o777 for path in self.path.parent.iterdir()}
        for suffix in ("", "-wal", "-shm"):
            self.assertEqual(files[self.path.name + suffix], 0o600)

    async def test_file_belongs_to_the_owner_of_its_directory(self) -> None:
        """A command that root runs before the first start must not lock the daemon out."""
        if os.geteuid() == 0:
            os.chown(self.path.parent, 65534, 65534)
        await self.started()
        owners = {(each.stat().st_uid, each.stat().st_gid) for each in self.path.parent.iterdir()}
        folder = self.path.parent.stat()
        self.assertEqual(owners, {(folder.st_uid, folder.st_gid)})

    async def test_missing_directory(self) -> None:
        """The problem names the file that cannot be created, and the reason."""
        missing = self.path.parent / "missing" / "devices.sqlite3"
        problem = await self.refused(missing)
        self.assertIn(str(missing), problem)
        self.assertIn("No such file or directory", problem)

    async def test_directory_in_place_of_the_file(self) -> None:
        """The start fails."""
        self.assertIn("Is a directory", await self.refused(self.path.parent))

    async def test_file_of_another_kind(self) -> None:
        """It is left as it is."""
        self.path.write_bytes(b"[http]\nlisten = tcp:8080\n" * 100)
        self.assertIn("not a SQLite database", await self.refused(self.path))
        self.assertTrue(self.path.read_bytes().startswith(b"[http]"))

    async def test_newer_schema(self) -> None:
        """The start on a database of a newer release fails and leaves it as it is."""
        self.sql("create table future (x)", "pragma user_version = 1000")
        self.assertIn("schema 1000", await self.refused(self.path))
        self.assertEqual(self.sql("select name from sqlite_master"), [("future",)])

    async def test_newer_schema_that_only_adds_something(self) -> None:
        """A program that does not know the addition starts and works."""
        await self.started()
        self.sql("insert into schema_additions (number) values (1000)")
        registry = await self.started()
        await registry.register(a_device())

    async def test_new_file_is_locked_for_a_moment(self) -> None:
        """The start waits until another daemon, which starts too, has released the file."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            other.execute("create table other (x)")
            starting = Deferred.fromCoroutine(self.started())
            await deferLater(reactor, 0.2)
            self.assertNoResult(starting)
            other.execute("commit")
            await (await starting).ping()

    def test_several_daemons_start_at_once(self) -> None:
        """Each of several processes on a new file finds the whole schema."""
        command = [sys.executable, "-c", STARTED_AT_ONCE, str(self.path)]
        environment = {**os.environ, "PYTHONPATH": str(Path(middlewared.__file__).parents[1])}
        processes = [Popen(command, env=environment, stdout=PIPE, stderr=STDOUT) for _ in range(4)]
        for process in processes:
            printed, _ = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, printed.decode())


class SqliteLargeTests(SqliteCase):
    """Operations whose cost must not grow with the number of devices."""

    async def test_large_tables_are_not_scanned(self) -> None:
        """A registration and a page of shared phones use indexes; counts read only an index."""
        await self.started()
        dialect = Dialect(position="instr", now="0")
        page, _ = dialect.page(DeviceFilter(shared=True))
        for statement, used in (
            (f"delete from devices where {dialect.same_phone()} and sip_user_id <> ?", 1),
            (page, 1),
            (COUNT, "USING COVERING INDEX devices_app"),
            (COUNT_SILENT, "USING COVERING INDEX devices_silent"),
        ):
            count = statement.count("?")
            with closing(sqlite3.connect(self.path)) as connection:
                rows = connection.execute(f"explain query plan {statement}", ["1"] * count)
                plan = "\n".join(row[3] for row in rows)
            self.assertIn("devices_installation" if used == 1 else used, plan)
            self.assertNotRegex(plan, r"SCAN devices$|SCAN other")

    async def test_counting_holds_up_no_call(self) -> None:
        """A look-up is answered during a count, however long that takes."""
        registry = await self.started()
        await registry.register(a_device())
        others = ", ".join(COLUMNS[4:])
        self.sql(
            "with recursive n (n) as (select 1 union all select n + 1 from n where n < 5000)"
            f" insert into devices select n, 'gcm', 'app' || n, 't' || n, {others} from n, devices"
        )
        # So many that a look-up comes between them on busy cores, too.
        counting = [Deferred.fromCoroutine(registry.count(1)) for _ in range(40)]
        self.assertEqual(await registry.find(ACCOUNT), a_device())
        self.assertFalse(counting[-1].called)
        self.assertEqual({len(each.devices) for each in await gatherResults(counting)}, {5001})


class SqliteOutageTests(SqliteCase):
    """While the file cannot be used, and afterwards."""

    def down(self, work: object) -> Deferred[DatabaseDown]:
        assert isinstance(work, Deferred)
        failed: Deferred[DatabaseDown] = self.assertFailure(work, DatabaseDown)
        return failed

    def register(self, registry: SqliteRegistry, sip_user_id: int) -> Deferred[object]:
        return Deferred.fromCoroutine(registry.register(a_device(sip_user_id)))

    async def test_other_process_holds_the_lock(self) -> None:
        """Registrations fail in time, calls find their device, and afterwards everything works."""
        registry = await self.started(timeout_s=0.4)
        await until_done(lambda: registry.register(a_device()))
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            blocked = [self.down(self.register(registry, n)) for n in range(1, 4)]
            self.assertEqual(await until_done(lambda: registry.find(ACCOUNT)), a_device())
            await gatherResults(blocked)
            await self.down(Deferred.fromCoroutine(registry.ping()))
            self.assertFalse(registry.up)
            other.execute("rollback")
        await until_done(registry.ping)
        self.assertTrue(registry.up)
        await until_done(lambda: registry.register(a_device(2)))
        self.assertEqual(await until_done(lambda: registry.find(2)), a_device(2))

    async def test_bound_on_waiting_requests(self) -> None:
        """When too many wait for the disk, one more is refused at once."""
        registry = await self.started(timeout_s=1.0)
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            waiting = [self.down(self.register(registry, n)) for n in range(1, 5002)]
            error = self.failureResultOf(self.register(registry, 6000), DatabaseDown)
            self.assertIn("wait for the database", str(error.value))
            await gatherResults(waiting)

    async def test_refused_data_fail_their_own_request(self) -> None:
        """Registrations of the same moment are stored."""
        registry = await self.started()
        work = [self.register(registry, n) for n in (1, 2**70, 3)]
        await work[0]
        await self.assertFailure(work[1], OverflowError)
        await work[2]
        self.assertEqual([d.sip_user_id for d in (await registry.page()).devices], [1, 3])

    async def test_full_disk(self) -> None:
        """A registration without room is not confirmed; one that fits is, without a restart."""
        registry = await self.started()
        before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 1024 * 1024, hard))
        try:
            too_large = a_device(1, token="x" * 9 * 1024 * 1024)
            await self.down(Deferred.fromCoroutine(registry.register(too_large)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
        await registry.register(a_device(2))
        self.assertEqual((await registry.page()).devices, (a_device(2),))

    async def test_file_is_replaced(self) -> None:
        """A backup that an operator puts in its place is used from then on."""
        registry = await self.started()
        await registry.register(a_device(1))
        backup = self.path.with_name("backup")
        self.sql(f"vacuum into '{backup}'")
        await registry.register(a_device(2))
        for file in self.path.parent.iterdir():
            if file != backup:
                file.unlink()
        backup.rename(self.path)
        self.assertEqual(await registry.find(1), a_device(1))
        self.assertIsNone(await registry.find(2))
        await registry.register(a_device(3))

    async def test_no_schema_is_made_once_it_runs(self) -> None:
        """A file that is gone, or an empty one in its place: down, until it is restored."""
        registry = await self.started()
        for file in self.path.parent.iterdir():
            file.unlink()
        await self.down(Deferred.fromCoroutine(registry.ping()))
        self.assertEqual(list(self.path.parent.iterdir()), [])
        self.path.touch()
        await self.down(Deferred.fromCoroutine(registry.ping()))
        await self.down(Deferred.fromCoroutine(registry.find(1)))
        self.assertEqual(self.sql("select name from sqlite_master"), [])
        other = await self.started()
        await other.stop()
        await registry.register(a_device(1))
        self.assertEqual(await registry.find(1), a_device(1))

    async def test_file_becomes_unusable_and_returns(self) -> None:
        """While the file is away all requests fail; then they work again."""
        registry = await self.started()
        await registry.register(a_device(1))
        away = self.path.parent.with_suffix(".away")
        self.path.parent.rename(away)
        await self.down(self.register(registry, 2))
        await self.down(Deferred.fromCoroutine(registry.find(1)))
        await self.down(Deferred.fromCoroutine(registry.ping()))
        away.rename(self.path.parent)
        self.assertEqual(await registry.find(1), a_device(1))
        await registry.register(a_device(2))

    async def test_stop_without_a_start(self) -> None:
        """A daemon whose start failed elsewhere ends at once."""
        await self.registry(timeout_s=1000).stop()

    async def test_stop_finishes_what_was_asked_for(self) -> None:
        """A registration under way is committed; a later one is refused."""
        registry = await self.started()
        under_way = self.register(registry, 1)
        await registry.stop()
        self.assertEqual(self.successResultOf(under_way), Registered(None))
        await self.down(self.register(registry, 2))
        self.assertEqual(self.sql("select sip_user_id from devices"), [(1,)])
