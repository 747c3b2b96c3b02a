"""
The device registry in one SQLite file.

The one invariant: the reactor's thread never touches the file. A look-up there would
cost 11 instead of 106 microseconds (bench/devices.py), but a cold page or a stalled disk
would then stop every held call. Reads and writes have a thread each, since a reader of a
WAL database waits for no commit: a call finds its device while registrations are
being flushed. Queries over all devices have a third, for which no call waits.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from twisted.logger import Logger

from middlewared import __version__
from middlewared.clock import WallClock, wall_clock
from middlewared.devices import queries
from middlewared.devices.interface import Counts, Page, PeerState, Registered, Wanted
from middlewared.devices.migrations import pending
from middlewared.devices.queries import Row, from_row, to_row
from middlewared.devices.sqlite.sqlite_thread import Reactor, SqliteThread
from middlewared.devices.streaks import Streak, continued, merged
from middlewared.errors import ConfigError, DatabaseDown, Problem
from middlewared.model import Device, Platform, ResponseRecord, Wakeup

T = TypeVar("T")

_SQL = queries.Dialect(position="instr")
_REPLACE = queries.INSERT.replace("insert", "insert or replace", 1)
_OTHERS = f"from devices where {_SQL.same_phone()} and sip_user_id <> ?"
_FIND_OTHERS = f"select {queries.NAMES} {_OTHERS}"
_DELETE_OTHERS = f"delete {_OTHERS}"
_STREAK = """
    update devices set
        silent_streak = ? + case when ? is null then silent_streak else 0 end,
        last_answered = max(coalesce(last_answered, ?), coalesce(?, last_answered))
    where sip_user_id = ? and platform = ? and app = ? and token = ?
"""
_LOG = "insert into response_log (platform, roundtrip_seconds, available, date) values "
_LOG_ROW = "(?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', ?, 'unixepoch'))"
_NOW_S = "(julianday('now') * 86400)"
_REPORT = f"""
    insert or replace into daemons (daemon, seen_at, redis_up, version, waiting)
    values (?, {_NOW_S}, ?, ?, ?)
"""  # noqa: S608
_FORGET_DAEMONS = f"delete from daemons where seen_at < {_NOW_S} - 60"  # noqa: S608
_PEERS = f"""
    select daemon, redis_up, version, waiting, max(0.0, {_NOW_S} - seen_at) from daemons
    where daemon <> ? and seen_at > {_NOW_S} - 3
"""  # noqa: S608
_CAPACITY = 5000


class SqliteRegistry:
    """
    Implements :class:`~middlewared.devices.interface.DeviceRegistry` and
    :class:`~middlewared.devices.interface.DaemonTable`.

    :param path: the database file; its directory must exist.
    :param timeout_s: how long a request may take in all before it is DatabaseDown.
    """

    def __init__(
        self,
        *,
        path: Path,
        reactor: Reactor,
        timeout_s: float = 2.0,
        wall: WallClock = wall_clock,
    ) -> None:
        self._wall = wall
        # SQLite waits for another process's lock at most half of a request's time, so
        # that a request which queued up behind such a wait still has the other half.
        writing = _File(path, lock_wait_s=timeout_s / 2, reading=False)
        self._writer = SqliteThread(
            reactor=reactor,
            source=writing,
            begin="begin immediate",
            timeout_s=timeout_s,
            capacity=_CAPACITY,
        )
        self._reader, self._surveyor = (
            SqliteThread(
                reactor=reactor,
                source=_File(path, lock_wait_s=timeout_s / 2, reading=True),
                begin=None,
                timeout_s=timeout_s,
                capacity=_CAPACITY,
            )
            for _ in range(2)
        )

    async def start(self) -> None:
        """
        Open the database and bring its schema up to date.

        :raises ConfigError: it cannot be used as configured, or a newer release used it.
        :raises DatabaseDown: it cannot be used now; the next request tries again.
        """
        self._writer.start()
        self._reader.start()
        self._surveyor.start()
        await self._writer.run(lambda _: None)

    async def stop(self) -> None:
        """Finish what was asked for, then close the file."""
        await self._surveyor.stop()
        await self._reader.stop()
        await self._writer.stop()

    async def find(self, sip_user_id: int) -> Device | None:
        if sip_user_id > queries.LARGEST_ID:
            return None
        row = await _running(self._reader, lambda c: _row(c, queries.FIND, sip_user_id))
        return None if row is None else from_row(row)

    async def register(self, device: Device, *, alone: bool = False) -> Registered:
        others = (*queries.phone(device), device.sip_user_id)

        def replace(connection: sqlite3.Connection) -> Registered:
            row = _row(connection, queries.FIND, device.sip_user_id)
            before = None if row is None else from_row(row)
            connection.execute(_REPLACE, to_row(continued(device, before)))
            if not alone:
                return Registered(before)
            displaced = connection.execute(_FIND_OTHERS, others).fetchall()
            if displaced:
                connection.execute(_DELETE_OTHERS, others)
            return Registered(before, [from_row(row) for row in displaced])

        return await _running(self._writer, replace)

    async def delete(self, sip_user_id: int, platform: Platform, app: str, token: str) -> bool:
        return await self._changes(queries.DELETE, sip_user_id, platform.value, app, token)

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        latest = math.inf if registered_before is None else registered_before
        return await self._changes(queries.REMOVE_DEAD, *queries.identity(device), latest)

    async def replace_token(self, device: Device, new_token: str) -> bool:
        return await self._changes(queries.REPLACE_TOKEN, new_token, *queries.identity(device))

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        return await self._changes(queries.SET_SANDBOX, sandbox, *queries.identity(device))

    async def touch(self, sip_user_id: int, seen_at: float) -> bool:
        return await self._changes(queries.TOUCH, seen_at, sip_user_id)

    async def page(self, after: int = 0, limit: int = 1000, wanted: Wanted | None = None) -> Page:
        statement, values = _SQL.page(wanted or Wanted())
        return queries.to_page(await self._survey(statement, after, limit, *values))

    async def count(self, silent_calls: int) -> Counts:
        rows = await self._survey(queries.COUNT)
        if not silent_calls:
            return queries.to_counts(rows, 0)
        ((silent,),) = await self._survey(queries.COUNT_SILENT, silent_calls)
        return queries.to_counts(rows, silent)

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        if records:
            rows = ", ".join([_LOG_ROW] * len(records))
            values = [value for record in records for value in _log_row(record)]
            await self._changes(_LOG + rows, *values)

    async def log_wakeups(self, wakeups: Sequence[Wakeup]) -> None:
        rows = [_streak_row(streak) for streak in merged(wakeups)]
        await _running(self._writer, lambda c: c.executemany(_STREAK, rows).rowcount)

    async def report(self, daemon: str, *, redis_up: bool, waiting: int) -> Sequence[PeerState]:
        def exchange(connection: sqlite3.Connection) -> Sequence[Row]:
            connection.execute(_REPORT, (daemon, redis_up, __version__, waiting))
            connection.execute(_FORGET_DAEMONS)
            return connection.execute(_PEERS, (daemon,)).fetchall()

        rows = await _running(self._writer, exchange)
        return [PeerState(row[0], bool(row[1]), *row[2:]) for row in rows]

    async def ping(self) -> None:
        await _running(self._reader, lambda c: _row(c, queries.FIND, 0))
        await self._changes(queries.PING, self._wall())

    async def _survey(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows of a statement that may be slow."""

        def select(connection: sqlite3.Connection) -> Sequence[Row]:
            return connection.execute(statement, values).fetchall()

        return await _running(self._surveyor, select)

    async def _changes(self, statement: str, *values: object) -> bool:
        """Run one statement that writes; whether it changed a row."""

        def change(connection: sqlite3.Connection) -> bool:
            return connection.execute(statement, values).rowcount > 0

        return await _running(self._writer, change)


async def _running(lane: SqliteThread, work: Callable[[sqlite3.Connection], T]) -> T:
    """Once the daemon runs, a file that became unusable is an outage like any other."""
    try:
        return await lane.run(work)
    except ConfigError as error:
        raise DatabaseDown(str(error)) from error


def _row(connection: sqlite3.Connection, statement: str, *values: object) -> Row | None:
    row: Row | None = connection.execute(statement, values).fetchone()
    return row


def _log_row(record: ResponseRecord) -> Row:
    return (
        record.platform.value,
        record.roundtrip_seconds,
        record.available,
        record.answered_at,
    )


def _streak_row(streak: Streak) -> Row:
    at = streak.answered_at
    return streak.missed, at, at, at, *queries.identity(streak.device)


class _File:
    """The database file, seen from a lane's thread."""

    _log = Logger()

    def __init__(self, path: Path, *, lock_wait_s: float, reading: bool) -> None:
        self._path = path
        self._lock_wait_s = lock_wait_s
        self._reading = reading
        self._identity: tuple[int, int] | None = None

    def open(self) -> sqlite3.Connection:
        if not self._reading:
            self._create()
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._lock_wait_s,
            isolation_level=None,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._identity = self._identify()
        return connection

    def moved(self) -> bool:
        """An operator replaced the file: what is written to the old one would be lost."""
        return self._identify() != self._identity

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _create(self) -> None:
        """Push tokens are secrets: the file is for its owner alone from the first byte on."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise _unusable(self._path, os.strerror(error.errno or 0)) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        try:
            if self._reading:
                connection.execute("pragma query_only = on")
            else:
                connection.execute("pragma journal_mode = wal")
                connection.execute("pragma synchronous = full")
                self._upgrade(connection)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise _unusable(self._path, "not a SQLite database") from error
            raise

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Under the write lock, since several daemons may start at once."""
        connection.execute("begin immediate")
        (version,) = connection.execute("pragma user_version").fetchone()
        for number, script in pending("sqlite", version):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"pragma user_version = {number}")
            self._log.info("database schema {number} installed", number=number)
        connection.execute("commit")


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem("database", "url", f"{path}: {why}")])


def _statements(script: str) -> Sequence[str]:
    """The statements of a script; ``executescript`` would end the transaction it runs in."""
    statements = [""]
    for line in script.splitlines(keepends=True):
        statements[-1] += line
        if sqlite3.complete_statement(statements[-1]):
            statements.append("")
    return [statement for statement in statements if statement.strip()]
