"""
The history in PostgreSQL, with the connections of the device registry.

It uses at most half of them at a time: even if every statement of the history had to wait,
for a lock or a disk, calls would find a connection for theirs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from twisted.internet.defer import DeferredSemaphore

from middlewared.clock import WallClock, wall_clock
from middlewared.database import Row
from middlewared.database.postgres_connection import QueryResult
from middlewared.database.postgres_database import PostgresDatabase
from middlewared.history.interface import HistoryRow, Retention
from middlewared.history.searches import CallStatements
from middlewared.history.sql_history import SqlHistory

_NUMBERS = {"started_at", "at"}


class PostgresHistory(SqlHistory):
    """:param database: started and stopped by the registry that shares it."""

    _response_older = "date < to_timestamp(?)"
    _statements = CallStatements(unindexed="")

    def __init__(
        self, *, database: PostgresDatabase, settings: Retention, wall: WallClock = wall_clock
    ) -> None:
        super().__init__(settings=settings, wall=wall)
        self._database = database
        self._connections = DeferredSemaphore(max(1, database.pool_size // 2))

    async def _select(self, statement: str, *values: object) -> Sequence[Row]:
        return (await self._run(statement, values)).rows

    async def _append(
        self, table: str, columns: tuple[str, ...], rows: Sequence[HistoryRow]
    ) -> None:
        values = ", ".join(
            f"(value->>{number}){'::float8' if column in _NUMBERS else ''}"
            for number, column in enumerate(columns)
        )
        statement = (
            f"insert into {table} ({', '.join(columns)})"  # noqa: S608 (our own names)
            f" select {values} from json_array_elements(?::json) as rows (value)"
            " on conflict do nothing"
        )
        # Quoting each value would take three times as long, in the reactor's thread.
        await self._run(statement, (json.dumps(rows),))

    async def _delete_oldest(self, table: str, older_than: float, kept: int, most: int) -> int:
        # Several daemons purge: each skips the rows that another deletes.
        older = self._older(table)
        statement = f"""
            with old as materialized (
                select id from {table}
                where id in (select id from {table} order by id limit ?)
                    and ({older} or id <= (select max(id) from {table}) - ?)
                for update skip locked
            )
            delete from {table} using old where {table}.id = old.id
        """  # noqa: S608
        return (await self._run(statement, (most, older_than, kept))).count

    async def _run(self, statement: str, values: Sequence[object]) -> QueryResult:
        await self._connections.acquire()
        try:
            return await self._database.execute(statement, lambda: values)
        finally:
            self._connections.release()
