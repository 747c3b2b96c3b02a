"""
The history in a SQLite file, written by the thread that writes the devices.

Every statement hands the interpreter's lock to that thread and back, so a full batch is one
statement. Neither a batch nor a purge step is long enough to delay a registration noticeably.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from sqlite3 import Connection

from middlewared.clock import WallClock, wall_clock
from middlewared.database import Row
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.history.interface import HistoryRow, Retention
from middlewared.history.searches import CallStatements
from middlewared.history.sql_history import TIMES, SqlHistory

_MOST_ROWS = 256
"""Rows of a statement, a power of two."""
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

    async def _append(
        self, table: str, columns: tuple[str, ...], rows: Sequence[HistoryRow]
    ) -> None:
        def insert(connection: Connection) -> None:
            for statement, values in inserts:
                connection.execute(statement, values)

        # A statement of each size is compiled once: compiling one takes as long as running it,
        # and with every number of rows there may be they would take 40 MB.
        inserts, first = [], 0
        for size in _powers_of_two(len(rows)):
            values = [value for row in rows[first : first + size] for value in row]
            inserts.append((_insert(table, columns, size), values))
            first += size
        await self._database.write(insert)

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


@cache
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    """The statement that appends this many rows."""
    row = f"({', '.join('?' * len(columns))})"
    names, values = ", ".join(columns), ", ".join([row] * rows)
    return f"insert or ignore into {table} ({names}) values {values}"  # noqa: S608 (our own names)


def _powers_of_two(number: int) -> Iterator[int]:
    """Powers of two with the sum ``number``, the largest first."""
    while number:
        power = min(_MOST_ROWS, 1 << (number.bit_length() - 1))
        yield power
        number -= power
