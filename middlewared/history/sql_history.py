"""
What the histories in SQL databases share.

The databases differ in how a statement is run, and in the statements that write and delete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import attrs

from middlewared.clock import WallClock
from middlewared.database import Row
from middlewared.history import history_rows, searches
from middlewared.history.history_rows import (
    CALL_COLUMNS,
    EVENT_COLUMNS,
    FACT_COLUMNS,
    FIGURE_COLUMNS,
)
from middlewared.history.interface import (
    CallFigures,
    CallPage,
    CallSearch,
    DeviceEvent,
    HistoryRow,
    KeptCall,
    Retention,
)
from middlewared.history.numbers import digits_of, searched_numbers
from middlewared.history.searches import CallStatements, PageMark, facts_statement, read_mark
from middlewared.history.verdicts import verdict

DAY_S = 24 * 3600.0
_SAME_KEY = 10
"""How many calls of one key are read: a PBX may use a UUID again."""
_FACTS_PER_CALL = 4
"""Facts that may be kept for each call that may be kept."""


TIMES = {
    "calls": "started_at",
    "call_facts": "at",
    "device_events": "at",
    "call_figures": "at",
    "response_log": "date",
}
"""The column with the time of a row, for each table that is purged."""


class SqlHistory(ABC):
    """
    Most of :class:`~middlewared.history.interface.HistoryStore`.

    :cvar _response_older: the condition that a row of response_log is older than a time.
    :cvar _statements: how calls are searched.
    """

    _response_older: ClassVar[str]
    _statements: ClassVar[CallStatements]

    def __init__(self, *, settings: Retention, wall: WallClock) -> None:
        self._settings = settings
        self._wall = wall

    def reconfigure(self, settings: Retention) -> None:
        self._settings = settings

    async def search(self, wanted: CallSearch) -> CallPage:
        mark = read_mark(wanted.before)
        text = wanted.number or (wanted.text if mark is not None and mark.by_number else "")
        rows = await self._find(wanted, mark, text)
        if not rows and mark is None and wanted.or_number and _is_number(wanted.text):
            text = wanted.text
            rows = await self._find(wanted, mark, text)
        found, more = rows[: wanted.limit], len(rows) > wanted.limit
        last = None
        if more:
            id, started_at = found[-1][0], found[-1][1 + CALL_COLUMNS.index("started_at")]
            last = PageMark(started_at, id, bool(text and not wanted.number)).opaque()
        return CallPage(await self._calls(found), last)

    async def find_call(self, unique_key: str) -> KeptCall | None:
        wanted = CallSearch(unique_key=unique_key, limit=_SAME_KEY)
        calls = await self._calls(await self._find(wanted, None, ""))
        return calls[0] if calls else None

    async def device_events(self, sip_user_id: str, limit: int = 100) -> Sequence[DeviceEvent]:
        if not self._settings.days:
            return []
        return history_rows.device_events(await self._select(searches.EVENTS, sip_user_id, limit))

    async def last_answered(self, sip_user_id: str) -> float | None:
        if not self._settings.days:
            return None
        started_at: float | None
        ((started_at,),) = await self._select(self._statements.last_answered, sip_user_id)
        return started_at

    async def call_figures(self, since: float) -> Sequence[CallFigures]:
        if not self._settings.days:
            return []
        return history_rows.call_figures(await self._select(searches.FIGURES, since))

    async def add_calls(self, rows: Sequence[HistoryRow]) -> None:
        await self._append("calls", CALL_COLUMNS, rows)

    async def add_facts(self, rows: Sequence[HistoryRow]) -> None:
        await self._append("call_facts", FACT_COLUMNS, rows)

    async def add_device_events(self, rows: Sequence[HistoryRow]) -> None:
        await self._append("device_events", EVENT_COLUMNS, rows)

    async def add_call_figures(self, rows: Sequence[HistoryRow]) -> None:
        await self._append("call_figures", FIGURE_COLUMNS, rows)

    async def purge_step(self, table: str, most: int) -> int:
        settings = self._settings
        older_than = self._wall() - settings.days * DAY_S
        if not settings.days and table == "response_log":
            older_than = 0.0  # it names no one, so its number alone limits it
        kept = settings.max_calls * (_FACTS_PER_CALL if table == "call_facts" else 1)
        return await self._delete_oldest(table, older_than, kept, most)

    async def _find(self, wanted: CallSearch, mark: PageMark | None, text: str) -> Sequence[Row]:
        settings = self._settings
        numbers = searched_numbers(text, settings.numbers)
        if not settings.days or (text and not numbers):
            return []
        oldest = self._wall() - settings.days * DAY_S
        statement, values = self._statements.page(wanted, mark, numbers, oldest)
        return await self._select(statement, *values)

    async def _calls(self, rows: Sequence[Row]) -> Sequence[KeptCall]:
        if not rows:
            return []
        keys = list({row[1] for row in rows})
        facts = await self._select(facts_statement(len(keys)), *keys)
        calls = history_rows.kept_calls([row[1:] for row in rows], facts)
        return [attrs.evolve(call, verdict=verdict(call)) for call in calls]

    def _older(self, table: str) -> str:
        """The condition that a row is older than a time, or cannot be of a kept call any more."""
        match table:
            case "response_log":
                return self._response_older
            case "call_facts":
                # Reports come when their call is over, however the clocks differ.
                return "(at < ? or at < (select min(started_at) from calls) - 3600)"
            case _:
                return f"{TIMES[table]} < ?"

    @abstractmethod
    async def _select(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows of a statement; no call waits for it."""

    @abstractmethod
    async def _append(
        self, table: str, columns: tuple[str, ...], rows: Sequence[HistoryRow]
    ) -> None:
        """Append rows with the values of ``columns``."""

    @abstractmethod
    async def _delete_oldest(self, table: str, older_than: float, kept: int, most: int) -> int:
        """
        Delete at most ``most`` rows that are older, or beyond the newest ``kept`` ones.

        Ids are given in order, so the newest are counted by them.
        """


def _is_number(text: str) -> bool:
    return digits_of(text).isdigit()
