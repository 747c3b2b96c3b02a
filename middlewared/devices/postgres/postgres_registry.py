"""
The device registry in PostgreSQL, shared by several daemons.

Every operation is one query and so its own transaction. An operation that is repeated after a
lost connection ends in the same state, except that rows of the response log may then be there
twice, and calls that were not answered count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from middlewared.database import Row
from middlewared.database.postgres_database import PostgresDatabase
from middlewared.devices import queries
from middlewared.devices.batched_lookups import Ids
from middlewared.devices.interface import Registered
from middlewared.devices.queries import COLUMNS, NAMES, from_row, to_row
from middlewared.devices.silent_streaks import continue_streak
from middlewared.devices.sql_registry import SqlRegistry
from middlewared.model import Device

_DIALECT = queries.Dialect(position="strpos", now="extract(epoch from now())::float8")
_FIND_ALL = f"select {NAMES} from devices where sip_user_id = any(?)"  # noqa: S608 (our names)
_IDENTITY = ("sip_user_id", "platform", "app", "token")
_SAME_TOKEN = " and ".join(f"devices.{name} = excluded.{name}" for name in _IDENTITY)
_SAME_WOKEN = " and ".join(f"devices.{name} = woken.{name}" for name in _IDENTITY)
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
        where sip_user_id = ? or (? and {_DIALECT.same_phone()})
        order by sip_user_id for update
    ),
    stored as (
        insert into devices ({NAMES})
        select {", ".join("?" * len(COLUMNS))}
        from (select count(*) as number from before) as locked where number >= 0
        on conflict (sip_user_id) do update set {_UPDATES}
        returning sip_user_id
    ),
    removed as (
        delete from devices using before, stored
        where devices.sip_user_id = before.sip_user_id
            and devices.sip_user_id <> stored.sip_user_id
    )
    select {NAMES} from before
"""  # noqa: S608 (our own names)
# A separate statement in the same transaction, so that the next one sees what the previous
# holder of the lock stored.
_LOCK = "select pg_advisory_xact_lock(?);"
_UPDATE_STREAKS = f"""
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
    where {_SAME_WOKEN}
"""  # noqa: S608
_APPEND = """
    insert into response_log (platform, roundtrip_seconds, available, date)
    select platform, seconds, available, to_timestamp(at)
    from unnest(?::text[], ?::float8[], ?::boolean[], ?::float8[])
        as responses (platform, seconds, available, at)
"""
# Two daemons may delete the same rows, so each skips those that another has locked.
_EXCHANGE_HEARTBEATS = """
    with own as (
        insert into daemons (daemon, seen_at, redis_up, version, waiting)
        values (?, now(), ?, ?, ?)
        on conflict (daemon) do update set seen_at = excluded.seen_at,
            redis_up = excluded.redis_up, version = excluded.version, waiting = excluded.waiting
    ), old as (
        delete from daemons where daemon in (
            select daemon from daemons where seen_at < now() - interval '1 minute'
            for update skip locked
        ) and seen_at < now() - interval '1 minute'
    )
    select daemon, redis_up, version, waiting,
        greatest(0, extract(epoch from now() - seen_at))::float8
    from daemons where daemon <> ? and seen_at > now() - interval '3 seconds'
"""


class PostgresRegistry(SqlRegistry[PostgresDatabase]):
    DIALECT = _DIALECT

    async def register(self, device: Device, *, exclusive: bool = False) -> Registered:
        # Registrations of one account or of one phone are serialized; both locks are taken in
        # order.
        locks = sorted(_locks_of(device)[: 1 + exclusive])
        rows = await self._select(
            _LOCK * len(locks) + _REGISTER,
            *(*locks, device.sip_user_id, exclusive, *queries.phone(device)),
            *to_row(continue_streak(device, None)),
        )
        before = {row[0]: from_row(row) for row in rows}
        return Registered(before.pop(device.sip_user_id, None), list(before.values()))

    async def _ping(self) -> None:
        await self._database.execute(queries.PING, lambda: [self._wall()], urgent=True)

    async def _find_rows(self, ids: Callable[[], Ids]) -> Sequence[Row]:
        statement = self._dialect.adapted(_FIND_ALL)
        return (await self._database.execute(statement, lambda: [ids()], urgent=True)).rows

    async def _select(self, statement: str, *values: object) -> Sequence[Row]:
        return await self._database.select(self._dialect.adapted(statement), *values)

    async def _change_as_it_is(self, statement: str, *values: object) -> bool:
        return await self._database.change(statement, *values) > 0

    async def _append_responses(self, rows: Sequence[Row]) -> None:
        await self._change(_APPEND, *_columns(rows))

    async def _update_streaks(self, rows: Sequence[Row]) -> None:
        await self._change(_UPDATE_STREAKS, *_columns(rows))

    async def _exchange_heartbeats(
        self, daemon: str, redis_up: bool, version: str, waiting: int
    ) -> Sequence[Row]:
        values = (daemon, redis_up, version, waiting, daemon)
        done = await self._database.execute(_EXCHANGE_HEARTBEATS, lambda: values, urgent=True)
        return done.rows


def _columns(rows: Sequence[Row]) -> Sequence[list[object]]:
    """The columns of ``rows``, as ``unnest`` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


def _locks_of(device: Device) -> tuple[int, int]:
    """A number for the account and one for the phone, the same at every daemon."""
    phone = "\0".join(map(str, queries.phone(device)[1:]))
    account, phone_number = (
        int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)
        for text in (str(device.sip_user_id), phone)
    )
    return account, phone_number
