"""
The device registry in one SQLite file.

A look-up in the reactor's thread would take 11 instead of 106 microseconds (bench/devices.py),
but a stalled disk would then stop every held call.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from middlewared.database import Row
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.devices import queries
from middlewared.devices.batched_lookups import Ids
from middlewared.devices.interface import Registered
from middlewared.devices.queries import NAMES, Dialect, from_row, to_row
from middlewared.devices.silent_streaks import continue_streak
from middlewared.devices.sql_registry import SqlRegistry
from middlewared.model import Device

_NOW_S = "(julianday('now') * 86400)"
_DIALECT = Dialect(position="instr", now=_NOW_S)
_REPLACE = queries.INSERT.replace("insert", "insert or replace", 1)
_OTHERS = f"from devices where {_DIALECT.same_phone()} and sip_user_id <> ?"
_FIND_ALL = f"select {NAMES} from devices where sip_user_id in "  # noqa: S608 (our own names)
_FIND_OTHERS = f"select {NAMES} {_OTHERS}"
_DELETE_OTHERS = f"delete {_OTHERS}"
_UPDATE_STREAK = """
    update devices set
        silent_streak = ?5 + case when ?6 is null then silent_streak else 0 end,
        last_answered = max(coalesce(last_answered, ?6), coalesce(?6, last_answered))
    where sip_user_id = ?1 and platform = ?2 and app = ?3 and token = ?4
"""
_APPEND = "insert into response_log (platform, roundtrip_seconds, available, date) values "
_APPENDED_ROW = "(?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', ?, 'unixepoch'))"
_STORE_HEARTBEAT = f"""
    insert or replace into daemons (daemon, seen_at, redis_up, version, waiting)
    values (?, {_NOW_S}, ?, ?, ?)
"""  # noqa: S608
_DELETE_OLD_HEARTBEATS = f"delete from daemons where seen_at < {_NOW_S} - 60"  # noqa: S608
_PEER_HEARTBEATS = f"""
    select daemon, redis_up, version, waiting, max(0.0, {_NOW_S} - seen_at) from daemons
    where daemon <> ? and seen_at > {_NOW_S} - 3
"""  # noqa: S608


class SqliteRegistry(SqlRegistry[SqliteDatabase]):
    DIALECT = _DIALECT

    async def register(self, device: Device, *, exclusive: bool = False) -> Registered:
        others, adapted = (*queries.phone(device), device.sip_user_id), self._dialect.adapted

        def replace(connection: sqlite3.Connection) -> Registered:
            row = _row(connection, adapted(queries.FIND), device.sip_user_id)
            before = None if row is None else from_row(row)
            connection.execute(adapted(_REPLACE), to_row(continue_streak(device, before)))
            if not exclusive:
                return Registered(before)
            removed = connection.execute(adapted(_FIND_OTHERS), others).fetchall()
            if removed:
                connection.execute(adapted(_DELETE_OTHERS), others)
            return Registered(before, [from_row(row) for row in removed])

        return await self._database.write(replace)

    async def _ping(self) -> None:
        await self._lookups.find(self._dialect.before_all)
        await self._change(queries.PING, self._wall())

    async def _find_rows(self, ids: Callable[[], Ids]) -> Sequence[Row]:
        def prepare() -> Callable[[sqlite3.Connection], Sequence[Row]]:
            wanted = _padded(ids())
            statement = self._dialect.adapted(_FIND_ALL + f"({', '.join('?' * len(wanted))})")
            return lambda c: c.execute(statement, wanted).fetchall()

        return await self._database.read(prepare)

    async def _select(self, statement: str, *values: object) -> Sequence[Row]:
        statement = self._dialect.adapted(statement)
        return await self._database.scan(lambda c: c.execute(statement, values).fetchall())

    async def _change_as_it_is(self, statement: str, *values: object) -> bool:
        return await self._database.write(lambda c: c.execute(statement, values).rowcount > 0)

    async def _append_responses(self, rows: Sequence[Row]) -> None:
        statement = _APPEND + ", ".join([_APPENDED_ROW] * len(rows))
        await self._change(statement, *[value for row in rows for value in row])

    async def _update_streaks(self, rows: Sequence[Row]) -> None:
        statement = self._dialect.adapted(_UPDATE_STREAK)
        await self._database.write(lambda c: c.executemany(statement, rows).rowcount)

    async def _exchange_heartbeats(
        self, daemon: str, redis_up: bool, version: str, waiting: int
    ) -> Sequence[Row]:
        def exchange(connection: sqlite3.Connection) -> Sequence[Row]:
            connection.execute(_STORE_HEARTBEAT, (daemon, redis_up, version, waiting))
            connection.execute(_DELETE_OLD_HEARTBEATS)
            return connection.execute(_PEER_HEARTBEATS, (daemon,)).fetchall()

        return await self._database.write(exchange)


def _padded(ids: Ids) -> Ids:
    """``ids`` with the last one repeated, so that there are few statements to be prepared."""
    number: int = 1 << (len(ids) - 1).bit_length()
    return [*ids, *[ids[-1]] * (number - len(ids))]


def _row(connection: sqlite3.Connection, statement: str, *values: object) -> Row | None:
    row: Row | None = connection.execute(statement, values).fetchone()
    return row
