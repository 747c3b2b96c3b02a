"""
Checking the database: connection, schema and privileges.

Nothing is changed: writes are rolled back, and the schema is created or upgraded by a start or
by ``migrate``, not here.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2.errors

from middlewared.cli.check.check_result import CheckResult, ok, wrong
from middlewared.cli.check.explanations import CLOCK_TOLERANCE_S, NO_NAME, agreeing, skew
from middlewared.clock import wall_clock
from middlewared.config import DatabaseSettings
from middlewared.database import postgres_database
from middlewared.database.connection_parameters import parse_url, resolve_host
from middlewared.database.migrations import SchemaState, pending
from middlewared.database.postgres_connection import (
    PostgresConnection,
    PostgresConnectionLost,
    first_line,
)
from middlewared.database.postgres_pool import CONNECT_TIMEOUT_S
from middlewared.database.sqlite_file import read_state
from middlewared.database.sqlite_thread import SqliteThread
from middlewared.errors import ConfigError, DatabaseDown

STATEMENT_S = 2.0
_STATEMENT_TIMEOUT_MS = 1800
_CLOCK = "select extract(epoch from clock_timestamp())::float8"
# Privileges are checked before rows are read, so no row needs to match.
_WRITES = (
    *(
        statement.format(table)
        for table in ("devices", "text_devices")
        for statement in (
            "insert into {0} select * from {0} where false",
            "update {0} set last_seen = last_seen where false",
            "delete from {0} where false",
        )
    ),
    "insert into response_log (platform, roundtrip_seconds, available, date)"
    " select 'apns', 0, true, now() where false",
    "insert into daemons select * from daemons where false",
    "update pulse set beaten_at = beaten_at",
    *(
        f"{verb} from {table} where false"
        for table in ("calls", "call_facts", "device_events")
        for verb in ("delete", "select id")
    ),
    "insert into calls (unique_key) select '' where false",
    "insert into call_facts (unique_key) select '' where false",
    "insert into device_events (sip_user_id) select '' where false",
    "delete from response_log where false",
)
_FIRST_WRITES = ("create table middlewared_check (nothing integer)",)


async def check_database(database: DatabaseSettings, reactor: Any) -> CheckResult:
    """Check the SQLite file, or the first PostgreSQL host that accepts writes."""
    path = database.sqlite_file
    try:
        if path is not None:
            return await _sqlite(path, reactor)
        return await _postgres(parse_url(database.url, _STATEMENT_TIMEOUT_MS), reactor)
    except ConfigError as error:  # a newer release's schema
        return wrong("; ".join(problem.what for problem in error.problems))


async def _postgres(hosts: Sequence[Mapping[str, str]], reactor: Any) -> CheckResult:
    missed: list[str] = []
    for host in hosts:
        name = _name(host)
        addresses = await resolve_host(reactor, host)
        if not addresses:
            missed.append(f"{name}: {NO_NAME}")
        for parameters in addresses:
            connection = PostgresConnection(reactor)
            try:
                await connection.open(parameters, CONNECT_TIMEOUT_S)
                return await _check_connection(connection, name, missed)
            except PostgresConnectionLost as error:
                missed.append(f"{name}: {_with_advice(str(error))}")
            finally:
                connection.close()
    return wrong("; ".join(dict.fromkeys(missed)))


def _name(host: Mapping[str, str]) -> str:
    name = host.get("host") or host.get("hostaddr") or "the local socket"
    return f"{name}:{host.get('port', '5432')}"


async def _check_connection(
    connection: PostgresConnection, name: str, missed: Sequence[str]
) -> CheckResult:
    """Check an open connection."""
    try:
        state = await postgres_database.read_state(connection, STATEMENT_S)
        missing, schema = _schema("postgres", state)
        await _try_writes(connection, _FIRST_WRITES if missing else _WRITES)
        before = wall_clock()
        ((there,),) = (await connection.run(_CLOCK, (), STATEMENT_S)).rows
    except psycopg2.errors.InsufficientPrivilege as error:
        return wrong(f"{name}: {first_line(error)}: GRANT it to the user in url")
    except psycopg2.Error as error:
        return wrong(f"{name}: {first_line(error)}")
    except DatabaseDown as error:
        return wrong(f"{name}: {error}")
    ahead_s = there - (before + wall_clock()) / 2
    warnings = [each for each in missed if "standby" not in each]
    if abs(ahead_s) > CLOCK_TOLERANCE_S:
        warnings.append(f"its clock is {skew(ahead_s)}")
    return ok(f"{name}, {schema}, writable, {agreeing(ahead_s)}", warnings)


async def _try_writes(connection: PostgresConnection, statements: Sequence[str]) -> None:
    """Execute each statement, then roll back."""
    await connection.run("begin", (), STATEMENT_S)
    for statement in statements:
        await connection.run(statement, (), STATEMENT_S)
    await connection.run("rollback", (), STATEMENT_S)


def _schema(dialect: str, state: SchemaState) -> tuple[bool, str]:
    """
    Whether schema files are missing, and which schema there is.

    :raises ConfigError: it is a newer release's.
    """
    missing = pending(dialect, state.version, state.additions)
    if not missing:
        return False, f"schema {state.newest}"
    newest = missing[-1][0]
    if not state.version:
        return True, f"empty: the first start creates schema {newest}"
    return True, f"schema {missing[0][0] - 1}, which the next start upgrades to {newest}"


def _with_advice(text: str) -> str:
    """libpq's message, with what to do if that is known."""
    if "read-only" in text or "hot standby" in text:
        return "a standby, which accepts no writes: url must also name the primary"
    if "authentication failed" in text or "no password supplied" in text:
        return f"{text}: set user and password in url"
    if "pg_hba.conf" in text:
        return f"{text}: allow this host there"
    if "refused" in text or "no answer" in text:
        return f"{text}: is it running, and does a firewall block it?"
    return text


class _ExistingFile:
    """An SQLite file as it is; a :class:`.sqlite_thread.ConnectionSource`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, timeout=STATEMENT_S / 2, isolation_level=None)

    def replaced(self) -> bool:
        return False


async def _sqlite(path: Path, reactor: Any) -> CheckResult:
    if (result := _new_file(path)) is not None:
        return result
    thread = SqliteThread(
        reactor=reactor,
        source=_ExistingFile(path),
        begin="begin immediate",
        timeout_s=STATEMENT_S,
        capacity=1,
    )
    thread.start()
    try:
        state = await thread.run(_write_and_roll_back)
    except DatabaseDown as error:
        advice = ": run this as the daemon's user" if "readonly" in str(error) else ""
        return wrong(f"{path}: {error}{advice}")
    finally:
        await thread.stop()
    return ok(f"{path}, {_schema('sqlite', state)[1]}, writable")


def _new_file(path: Path) -> CheckResult | None:
    """The result for a file that does not exist yet; None if it does."""
    if path.exists():
        return None
    if os.access(path.parent, os.W_OK | os.X_OK):
        return ok(f"{path} does not exist yet: the first start creates it")
    return wrong(f"{path.parent} is not writable: give it to the daemon's user")


def _write_and_roll_back(connection: sqlite3.Connection) -> SchemaState:
    """Write, and roll back; returns what there is of the schema."""
    state = read_state(connection)
    if state.version:
        connection.execute("savepoint tried")
        connection.execute("update pulse set beaten_at = beaten_at")
        connection.execute("rollback to tried")
        connection.execute("release tried")
    return state
