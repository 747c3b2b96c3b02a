"""
The history in a SQLite file, written by the thread that writes the devices.

Every statement hands the interpreter's lock to that thread and back, so a batch is one
statement. Neither a batch nor a purge step is long enough to delay a registration noticeably.
"""

from __future__ import annotations

from collections.abc import Sequence

from middlewared.clock import WallClock, wall_clock
from middlewared.database import Row
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.history.interface import HistoryRow, Retention
from middlewared.history.searches import CallStatements
from middlewared.history.sql_history import TIMES, SqlHistory

STATEMENTS = CallStatements(unindexed="+", part_bits=10)


class SqliteHistory(SqlHistory):
    """:param database: started and stopped by the registry that shares it."""

    _response_older = "date < strftime('%Y-%m-%dT%H:%M:%fZ', ?, 'unixepoch')"
    _statements = STATEMENTS

    def __init__(
        self, *, database: SqliteDatabase, settings: Retention, wall: WallClock = wall_clock
    ) -> None:
        super().__init__(settings=settings, wall=wall)
        self._database = database

    async def _select(self, statement: str, *values: object) -> Sequence[Row]:
        return await self._database.scan(lambda c: c.execute(statement, values).fetchall())

    async def _append(self, table: str, columns: Sequence[str], rows: Sequence[HistoryRow]) -> None:
        row = f"({', '.join('?' * len(columns))})"
        statement = (
            f"insert or ignore into {table} ({', '.join(columns)})"  # noqa: S608 (our own names)
            f" values {', '.join([row] * len(rows))}"
        )
        values = [value for row in rows for value in row]
        await self._database.write(lambda c: c.execute(statement, values).rowcount)

    async def _delete_oldest(self, table: str, older_than: float, kept: int, most: int) -> int:
        column, older = TIMES[table], self._older(table)
        statement = f"""
            delete from {table} where id in (
                select id from (select id, {column} from {table} order by id limit ?)
                where {older} or id <= (select max(id) from {table}) - ?
            )
        """  # noqa: S608
        values = (most, older_than, kept)
        return await self._database.write(lambda c: c.execute(statement, values).rowcount)
