"""
The device registry in PostgreSQL, shared by several daemons.

The one invariant: every operation is one query and so its own transaction; an operation
that is repeated after a lost connection ends in the same state (rows of the response log
may then be there twice, and calls that were not answered count twice).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import psycopg2.errors
from twisted.logger import Logger

from middlewared import __version__
from middlewared.clock import WallClock, wall_clock
from middlewared.devices import queries
from middlewared.devices.interface import Counts, Page, PeerState, Registered, Wanted
from middlewared.devices.migrations import pending
from middlewared.devices.postgres.addresses import read_url
from middlewared.devices.postgres.batched_lookups import Ids, LookUps
from middlewared.devices.postgres.postgres_connection import PostgresConnection, Result, words
from middlewared.devices.postgres.postgres_pool import CONNECT_TIMEOUT_S, PostgresPool, Values
from middlewared.devices.queries import COLUMNS, NAMES, Row, from_row, to_row
from middlewared.devices.streaks import continued, merged
from middlewared.errors import DatabaseDown
from middlewared.model import Device, Platform, ResponseRecord, Wakeup

_SQL = queries.Dialect(position="strpos")
_FIND_ALL = f"select {NAMES} from devices where sip_user_id = any(?)"  # noqa: S608 (our names)
_DEVICE = ("platform", "app", "token")
_SAME_TOKEN = " and ".join(f"devices.{name} = excluded.{name}" for name in _DEVICE)
_CONTINUED = {
    "silent_streak": f"case when {_SAME_TOKEN} then devices.silent_streak else 0 end",
    "last_answered": f"case when {_SAME_TOKEN} then devices.last_answered end",
}
_UPDATES = ", ".join(f"{name} = {_CONTINUED.get(name, f'excluded.{name}')}" for name in COLUMNS[1:])
# Rows are locked in the order of their accounts, all of them before the insert (which is why
# it depends on their count), so that no two statements deadlock.
_REGISTER = f"""
    with before as materialized (
        select {NAMES} from devices
        where sip_user_id = ? or (? and {_SQL.same_phone()})
        order by sip_user_id for update
    ),
    stored as (
        insert into devices ({NAMES})
        select {", ".join("?" * len(COLUMNS))}
        from (select count(*) as number from before) as locked where number >= 0
        on conflict (sip_user_id) do update set {_UPDATES}
        returning sip_user_id
    ),
    displaced as (
        delete from devices using before, stored
        where devices.sip_user_id = before.sip_user_id
            and devices.sip_user_id <> stored.sip_user_id
    )
    select {NAMES} from before
"""  # noqa: S608 (our own names)
# A separate statement in the same transaction, so that the next one sees what the previous
# holder of the lock stored.
_LOCK = "select pg_advisory_xact_lock(?);"
_STREAKS = f"""
    with woken as materialized (
        select * from unnest(?::bigint[], ?::text[], ?::text[], ?::text[], ?::int[], ?::float8[])
            as woken (sip_user_id, platform, app, token, missed, answered)
    ),
    locked as materialized (
        select sip_user_id from devices
        where sip_user_id in (select sip_user_id from woken) order by sip_user_id for update
    )
    update devices set
        silent_streak =
            woken.missed + case when woken.answered is null then devices.silent_streak else 0 end,
        last_answered = greatest(devices.last_answered, woken.answered)
    from woken join locked using (sip_user_id)
    where {" and ".join(f"devices.{name} = woken.{name}" for name in ("sip_user_id", *_DEVICE))}
"""  # noqa: S608
_LOG = """
    insert into response_log (platform, roundtrip_seconds, available, date)
    select platform, seconds, available, to_timestamp(at)
    from unnest(?::text[], ?::float8[], ?::boolean[], ?::float8[])
        as answers (platform, seconds, available, at)
"""
# All in one statement. Two daemons may forget the same rows, so each skips what another has.
_REPORT = """
    with own as (
        insert into daemons (daemon, seen_at, redis_up, version, waiting)
        values (?, now(), ?, ?, ?)
        on conflict (daemon) do update set seen_at = excluded.seen_at,
            redis_up = excluded.redis_up, version = excluded.version, waiting = excluded.waiting
    ), forgotten as (
        delete from daemons where daemon in (
            select daemon from daemons where seen_at < now() - interval '1 minute'
            for update skip locked
        ) and seen_at < now() - interval '1 minute'
    )
    select daemon, redis_up, version, waiting,
        greatest(0, extract(epoch from now() - seen_at))::float8
    from daemons where daemon <> ? and seen_at > now() - interval '3 seconds'
"""
_VERSION = "select coalesce(max(version), 0) from schema_version"
_VERSIONS = """
    create table if not exists schema_version (
        version integer primary key,
        installed_at timestamptz not null default now()
    )
"""
# Any number that other programs on the same database are unlikely to lock.
_SCHEMA_LOCK = 0x6D64_6C77_6172
_SCHEMA_TIMEOUT_S = 60


class PostgresRegistry:
    """
    Implements :class:`~middlewared.devices.interface.DeviceRegistry` and
    :class:`~middlewared.devices.interface.DaemonTable`.

    :param url: ``postgresql://`` with one host or several; the one that can be written is used.
    :param timeout_s: how long a request may take in all before it is DatabaseDown.
    :raises ConfigError: the URL cannot be understood.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        url: str,
        reactor: Any,
        pool_size: int = 5,
        timeout_s: float = 2.0,
        wall: WallClock = wall_clock,
    ) -> None:
        self._wall = wall
        # A server that is alive ends a statement before we take it for silent, and one
        # silent server leaves time for a try with the next.
        query_timeout_s = timeout_s / 2
        self._pool = PostgresPool(
            reactor=reactor,
            hosts=read_url(url, statement_timeout_ms=int(query_timeout_s * 900)),
            prepare=self._prepare,
            size=pool_size,
            request_timeout_s=timeout_s,
            query_timeout_s=query_timeout_s,
        )
        self._look_ups = LookUps(clock=reactor, select=self._select)

    async def start(self) -> None:
        """
        Connect and bring the schema up to date.

        :raises ConfigError: a newer release used the database.
        :raises DatabaseDown: it cannot be reached now; connecting goes on in the background.
        """
        self._pool.start()
        await self._pool.connected()

    async def stop(self) -> None:
        """Finish what was asked for, then close the connections."""
        await self._pool.stop()

    async def find(self, sip_user_id: int) -> Device | None:
        if sip_user_id > queries.LARGEST_ID:
            return None
        row = await self._look_ups.find(sip_user_id)
        return None if row is None else from_row(row)

    async def register(self, device: Device, *, alone: bool = False) -> Registered:
        # Registrations of one account or of one phone are serialized; both locks are taken in
        # order.
        locks = sorted(_locks_of(device)[: 1 + alone])
        result = await self._run(
            _LOCK * len(locks) + _REGISTER,
            *(*locks, device.sip_user_id, alone, *queries.phone(device)),
            *to_row(continued(device, None)),
        )
        before = {row[0]: from_row(row) for row in result.rows}
        return Registered(before.pop(device.sip_user_id, None), list(before.values()))

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
        return queries.to_page((await self._run(statement, after, limit, *values)).rows)

    async def count(self, silent_calls: int) -> Counts:
        rows = (await self._run(queries.COUNT)).rows
        if not silent_calls:
            return queries.to_counts(rows, 0)
        ((silent,),) = (await self._run(queries.COUNT_SILENT, silent_calls)).rows
        return queries.to_counts(rows, silent)

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        if records:
            await self._run(
                _LOG,
                [record.platform.value for record in records],
                [record.roundtrip_seconds for record in records],
                [record.available for record in records],
                [record.answered_at for record in records],
            )

    async def log_wakeups(self, wakeups: Sequence[Wakeup]) -> None:
        rows = [
            (*queries.identity(streak.device), streak.missed, streak.answered_at)
            for streak in merged(wakeups)
        ]
        if rows:
            await self._run(_STREAKS, *map(list, zip(*rows, strict=True)))

    async def report(self, daemon: str, *, redis_up: bool, waiting: int) -> Sequence[PeerState]:
        values = (daemon, redis_up, __version__, waiting, daemon)
        result = await self._execute(_REPORT, lambda: values, urgent=True)
        return [PeerState(*row) for row in result.rows]

    async def ping(self) -> None:
        await self._execute(queries.PING, lambda: [self._wall()], urgent=True)

    async def _changes(self, statement: str, *values: object) -> bool:
        return (await self._run(statement, *values)).count > 0

    async def _select(self, ids: Callable[[], Ids]) -> Sequence[Row]:
        return (await self._execute(_FIND_ALL, lambda: [ids()], urgent=True)).rows

    async def _run(self, statement: str, *values: object) -> Result:
        return await self._execute(statement, lambda: values)

    async def _execute(self, statement: str, values: Values, *, urgent: bool = False) -> Result:
        try:
            return await self._pool.run(statement.replace("?", "%s"), values, urgent=urgent)
        except psycopg2.Error as error:
            # Tables or rights were taken away. Libpq's text would quote push tokens.
            raise DatabaseDown(f"the database refused: {error.pgcode}") from None

    async def _prepare(self, link: PostgresConnection) -> None:
        """Check the schema of whichever server this is; a new primary may lag behind."""
        try:
            if pending("postgres", await self._version(link)):
                await self._upgrade(link)
        except psycopg2.Error as error:
            raise DatabaseDown(f"the schema cannot be used: {words(error)}") from error

    async def _version(self, link: PostgresConnection) -> int:
        try:
            result = await link.run(_VERSION, (), CONNECT_TIMEOUT_S)
        except psycopg2.errors.UndefinedTable:
            return 0
        return int(result.rows[0][0])

    async def _upgrade(self, link: PostgresConnection) -> None:
        """Under a lock, since several daemons may start at once."""

        async def run(statement: str, *values: object) -> Result:
            return await link.run(statement, values, _SCHEMA_TIMEOUT_S)

        await run("begin")
        await run(f"set local statement_timeout = '{_SCHEMA_TIMEOUT_S}s'")
        await run("select pg_advisory_xact_lock(%s)", _SCHEMA_LOCK)
        await run(_VERSIONS)
        version = (await run(_VERSION)).rows[0][0]
        for number, script in pending("postgres", version):
            await run(script)
            await run("insert into schema_version (version) values (%s)", number)
            self._log.info("database schema {number} installed", number=number)
        await run("commit")


def _locks_of(device: Device) -> tuple[int, int]:
    """A number for the account and one for the phone, the same at every daemon."""
    phone = "\0".join(map(str, queries.phone(device)[1:]))
    account, phone_number = (
        int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)
        for text in (str(device.sip_user_id), phone)
    )
    return account, phone_number
