"""
What the device registries in SQL databases share.

The databases differ in how a statement is run, and in the statements that need more than
the SQL of :mod:`.queries`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import attrs

from middlewared import __version__
from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.database import Row
from middlewared.devices import queries
from middlewared.devices.batched_lookups import BatchedLookups, Ids
from middlewared.devices.interface import (
    DaemonState,
    DeviceCounts,
    DeviceFilter,
    Page,
    PeerHeartbeat,
)
from middlewared.devices.queries import Dialect
from middlewared.devices.silent_streaks import merge_wakeups
from middlewared.model import Device, Platform, ResponseRecord, SipUserId, Wakeup


class RegistryDatabase(Protocol):
    """What is started and stopped with the registry."""

    @property
    def clock(self) -> Clock: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


D = TypeVar("D", bound=RegistryDatabase)


class SqlRegistry(ABC, Generic[D]):
    """
    Most of :class:`~middlewared.devices.interface.DeviceRegistry`, and of
    :class:`~middlewared.devices.interface.DaemonHeartbeats` and
    :class:`~middlewared.devices.interface.DaemonStates`.

    :param database: started and stopped with the registry.
    :param text_accounts: accounts are texts, else they are numbers.
    """

    DIALECT: ClassVar[Dialect]

    def __init__(
        self, *, database: D, wall: WallClock = wall_clock, text_accounts: bool = False
    ) -> None:
        self._database = database
        self._dialect = attrs.evolve(self.DIALECT, text_accounts=text_accounts)
        self._wall = wall
        self._lookups = BatchedLookups(clock=database.clock, select=self._find_rows)
        self._up: bool | None = None
        self._carries_over = text_accounts

    @property
    def up(self) -> bool | None:
        return self._up

    async def start(self) -> None:
        await self._observed(self._database.start())

    async def stop(self) -> None:
        await self._database.stop()

    async def ping(self) -> None:
        await self._observed(self._ping())

    async def _observed(self, request: Awaitable[None]) -> None:
        try:
            await request
            if self._carries_over:
                await self._change_as_it_is(queries.CARRY_OVER)
                self._carries_over = False
        except Exception:
            self._up = False
            raise
        self._up = True

    async def find(self, sip_user_id: SipUserId, *, quickly: bool = False) -> Device | None:
        if isinstance(sip_user_id, int) and sip_user_id > queries.LARGEST_ID:
            return None
        row = await self._lookups.find(sip_user_id, quickly=quickly)
        return None if row is None else queries.from_row(row)

    async def delete(
        self, sip_user_id: SipUserId, platform: Platform, app: str, token: str
    ) -> bool:
        return await self._change(queries.DELETE, sip_user_id, platform.value, app, token)

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        latest = math.inf if registered_before is None else registered_before
        return await self._change(queries.REMOVE_DEAD, *queries.identity(device), latest)

    async def replace_token(self, device: Device, new_token: str) -> bool:
        return await self._change(queries.REPLACE_TOKEN, new_token, *queries.identity(device))

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        return await self._change(queries.SET_SANDBOX, sandbox, *queries.identity(device))

    async def touch(self, sip_user_id: SipUserId, seen_at: float) -> bool:
        return await self._change(queries.TOUCH, seen_at, sip_user_id)

    async def page(
        self,
        after: SipUserId | None = None,
        limit: int = 1000,
        matching: DeviceFilter | None = None,
    ) -> Page:
        statement, values = self._dialect.page(matching or DeviceFilter())
        after = self._dialect.before_all if after is None else after
        return queries.to_page(await self._select(statement, after, limit, *values))

    async def count(self, silent_calls: int) -> DeviceCounts:
        rows = await self._select(queries.COUNT)
        if not silent_calls:
            return queries.to_counts(rows, 0)
        ((silent,),) = await self._select(queries.COUNT_SILENT, silent_calls)
        return queries.to_counts(rows, silent)

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        if records:
            await self._append_responses([queries.to_response_row(record) for record in records])

    async def log_wakeups(self, wakeups: Sequence[Wakeup]) -> None:
        if wakeups:
            changes = merge_wakeups(wakeups)
            rows = [(*queries.identity(c.device), c.missed, c.answered_at) for c in changes]
            await self._update_streaks(rows)

    async def report(self, daemon: str, *, redis_up: bool, waiting: int) -> Sequence[PeerHeartbeat]:
        rows = await self._exchange_heartbeats(daemon, redis_up, __version__, waiting)
        return [PeerHeartbeat(row[0], bool(row[1]), *row[2:]) for row in rows]

    async def shares_phone(self, device: Device) -> bool:
        phone, others = queries.phone(device), f"{self._dialect.same_phone()} and sip_user_id <> ?"
        statement = f"select 1 from devices where {others} limit 1"  # noqa: S608 (our own names)
        return bool(await self._select(statement, *phone, device.sip_user_id))

    async def report_state(self, daemon: str, state: str) -> None:
        await self._change(self._dialect.report_state(), daemon, state)

    async def withdraw_state(self, daemon: str) -> None:
        await self._change(self._dialect.withdraw_state(), daemon)

    async def daemon_states(self) -> Sequence[DaemonState]:
        rows = await self._select(self._dialect.daemon_states())
        return [DaemonState(daemon, state, max(0.0, age_s)) for daemon, state, age_s in rows]

    @abstractmethod
    async def _ping(self) -> None:
        """Read and write the database."""

    @abstractmethod
    async def _find_rows(self, ids: Callable[[], Ids]) -> Sequence[Row]:
        """The rows of some devices, ahead of statements for which no call waits."""

    @abstractmethod
    async def _select(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows of a statement that may be slow; no call waits for it."""

    async def _change(self, statement: str, *values: object) -> bool:
        """Run one statement that writes; whether it changed a row."""
        changed: bool = await self._change_as_it_is(self._dialect.adapted(statement), *values)
        return changed

    @abstractmethod
    async def _change_as_it_is(self, statement: str, *values: object) -> bool:
        """The same with a statement that names its tables itself."""

    @abstractmethod
    async def _append_responses(self, rows: Sequence[Row]) -> None:
        """Store rows of :func:`.queries.to_response_row`, at least one."""

    @abstractmethod
    async def _update_streaks(self, rows: Sequence[Row]) -> None:
        """Apply changes, at least one: a device's identity, ``missed``, ``answered_at``."""

    @abstractmethod
    async def _exchange_heartbeats(
        self, daemon: str, redis_up: bool, version: str, waiting: int
    ) -> Sequence[Row]:
        """Store a heartbeat; the rows hold those of other daemons."""
