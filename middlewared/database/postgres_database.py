"""
One PostgreSQL database, shared by several daemons: its connections and its schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2.errors
from twisted.logger import Logger

from middlewared.database import Row
from middlewared.database.connection_parameters import parse_url
from middlewared.database.migrations import (
    ADD,
    ADDITIONS,
    CREATE_ADDITIONS,
    MISSING_SCHEMA,
    SchemaState,
    pending,
)
from middlewared.database.postgres_connection import PostgresConnection, QueryResult, first_line
from middlewared.database.postgres_pool import CONNECT_TIMEOUT_S, PostgresPool, Values
from middlewared.errors import DatabaseDown

_VERSION = "select coalesce(max(version), 0) from schema_version"
_CREATE_VERSIONS = """
    create table if not exists schema_version (
        version integer primary key,
        installed_at timestamptz not null default now()
    )
"""
# Any number that other programs on the same database are unlikely to lock.
_SCHEMA_LOCK = 0x6D64_6C77_6172
_SCHEMA_TIMEOUT_S = 60


class PostgresDatabase:
    """
    Used between :meth:`start` and :meth:`stop`.

    :param url: ``postgresql://`` with one host or several; the one that accepts writes is used.
    :param timeout_s: how long a request may take in all before it is DatabaseDown.
    :raises ConfigError: the URL cannot be understood.
    """

    _log = Logger()

    def __init__(
        self, *, url: str, reactor: Any, pool_size: int = 5, timeout_s: float = 2.0
    ) -> None:
        # A server that is alive ends a statement before it counts as silent, and one
        # silent server leaves time for an attempt with the next.
        query_timeout_s = timeout_s / 2
        self.clock = reactor
        self.pool_size = pool_size
        self._pool = PostgresPool(
            reactor=reactor,
            hosts=parse_url(url, statement_timeout_ms=int(query_timeout_s * 900)),
            prepare=self._prepare,
            size=pool_size,
            request_timeout_s=timeout_s,
            query_timeout_s=query_timeout_s,
        )
        self._reached = False
        """Whether there was a connection: from then on a missing schema is a fault."""

    async def start(self) -> None:
        """
        Connect, and bring the schema up to date.

        :raises ConfigError: it cannot be used as configured, or a newer release used it.
        :raises DatabaseDown: it cannot be reached now; the pool continues to connect.
        """
        self._pool.start()
        await self._pool.connected()

    async def stop(self) -> None:
        """Finish the statements in progress, then disconnect."""
        await self._pool.stop()

    async def execute(self, statement: str, values: Values, *, urgent: bool = False) -> QueryResult:
        """
        Run one statement with ``?`` for each value; it is its own transaction.

        It is repeated if its connection is lost, so it may be executed twice.

        :param urgent: a call waits for it: it precedes all that are not.
        :raises DatabaseDown: it could not be executed in time.
        """
        try:
            return await self._pool.run(statement.replace("?", "%s"), values, urgent=urgent)
        except psycopg2.Error as error:
            # Tables or rights were taken away. libpq's text would quote push tokens.
            raise DatabaseDown(f"the database refused: {error.pgcode}") from None

    async def select(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows of a statement for which no call waits; see :meth:`execute`."""
        return (await self.execute(statement, lambda: values)).rows

    async def change(self, statement: str, *values: object) -> int:
        """How many rows a statement changed; no call waits for it. See :meth:`execute`."""
        return (await self.execute(statement, lambda: values)).count

    async def _prepare(self, connection: PostgresConnection) -> None:
        """Check the schema of this server, and make it if this is the first connection."""
        may_make = not self._reached
        try:
            state = await read_state(connection, CONNECT_TIMEOUT_S)
            missing = pending("postgres", state.version, state.additions)
            if missing and may_make:
                await self._upgrade(connection)
        except psycopg2.Error as error:
            raise DatabaseDown(f"the schema cannot be used: {first_line(error)}") from error
        if missing and not may_make:
            raise DatabaseDown(MISSING_SCHEMA)
        self._reached = True

    async def _upgrade(self, connection: PostgresConnection) -> None:
        """Bring the schema up to date under a lock: several daemons may start at once."""

        async def run(statement: str, *values: object) -> QueryResult:
            return await connection.run(statement, values, _SCHEMA_TIMEOUT_S)

        await run("begin")
        await run(f"set local statement_timeout = '{_SCHEMA_TIMEOUT_S}s'")
        await run("select pg_advisory_xact_lock(%s)", _SCHEMA_LOCK)
        await run(_CREATE_VERSIONS)
        await run(CREATE_ADDITIONS)
        ((version,),) = (await run(_VERSION)).rows
        state = SchemaState(version, frozenset(n for (n,) in (await run(ADDITIONS)).rows))
        for number, script in pending("postgres", state.version, state.additions):
            await run(script)
            before, state = state, state.after(number, script)
            if state.version > before.version:
                await run("insert into schema_version (version) values (%s)", state.version)
            if number in state.additions:
                await run(ADD.replace("?", "%s"), number)
            self._log.info("database schema {number} installed", number=number)
        await run("commit")


async def read_state(connection: PostgresConnection, timeout_s: float) -> SchemaState:
    """What the database has of the schema. :raises psycopg2.Error: it must not be read."""

    async def rows(statement: str) -> Sequence[Row]:
        try:
            return (await connection.run(statement, (), timeout_s)).rows
        except psycopg2.errors.UndefinedTable:
            return ()

    version = await rows(_VERSION)
    additions = frozenset(n for (n,) in await rows(ADDITIONS))
    return SchemaState(version[0][0] if version else 0, additions)
