"""
Takes what happened, and writes it in batches, off the path of a call.

What waits to be written is bounded; while the database is away the oldest is dropped and
counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from middlewared.clock import Clock, WallClock
from middlewared.database.batched_writes import BatchedWrites
from middlewared.history import history_rows
from middlewared.history.call_counter import CallCounter
from middlewared.history.device_log import log_device_event
from middlewared.history.interface import (
    CallRecord,
    DeviceEvent,
    HistoryRow,
    HistoryStore,
    KeptAnswer,
    KeptReport,
    Retention,
)

WriteRows: TypeAlias = Callable[[Sequence[HistoryRow]], Coroutine[Deferred[Any], Any, None]]

CAPACITY = 20_000
"""Rows of each table that may wait, about 1 KB each."""
MOST_FACTS = 50
"""Facts of one call from one account that are kept by this daemon."""
MOST_KEYS = 10_000
"""Keys whose facts are counted, the latest ones."""
BATCH = 256
"""
Rows of a statement, a power of two; see :mod:`.sqlite_history`. They share the pages of the
indexes: a row costs SQLite 7.7 us of CPU in batches of 250, 9.2 in batches of 100 and 7.3 in
batches of 1000, which hold up registrations.
"""


class HistoryWriter:
    """
    Implements :class:`~.interface.Recorder`.

    :param daemon: the name of this daemon, kept with each row.
    :param lost: called with the number of rows that were dropped.
    :ivar daemon: the name of this daemon.
    :ivar counter: counts the calls that are kept.
    """

    def __init__(
        self,
        *,
        store: HistoryStore,
        clock: Clock,
        wall: WallClock,
        daemon: str,
        settings: Retention,
        lost: Callable[[int], None],
    ) -> None:
        def writes(name: str, write: WriteRows) -> BatchedWrites[HistoryRow]:
            return BatchedWrites(
                name=name, write=write, clock=clock, lost=lost, capacity=CAPACITY, batch=BATCH
            )

        self._wall = wall
        self.daemon = daemon
        self._settings = settings
        self._calls = writes("history of calls", store.add_calls)
        self._facts = writes("facts of calls", store.add_facts)
        self._events = writes("events of devices", store.add_device_events)
        self._figures = writes("figures of calls", store.add_call_figures)
        self.counter = CallCounter(
            clock=clock,
            wall=wall,
            daemon=daemon,
            keep=lambda figures: self._figures.add(history_rows.figures_row(figures)),
        )
        self._taken: OrderedDict[tuple[str, str], int] = OrderedDict()

    @property
    def recording(self) -> bool:
        return self._settings.days > 0

    def reconfigure(self, settings: Retention) -> None:
        """Use ``settings`` for what happens from now on."""
        self._settings = settings

    async def stop(self) -> None:
        """Write what waits; what the database does not accept now is lost."""
        await self._calls.stop()
        await self._facts.stop()
        await self._events.stop()
        self.counter.flush()
        await self._figures.stop()

    def keep_calls(self, records: Sequence[CallRecord]) -> None:
        if self.recording:
            daemon, numbers = self.daemon, self._settings.numbers
            self._calls.add(*[history_rows.call_row(each, daemon, numbers) for each in records])
            for each in records:
                self.counter.count(each)

    def keep_answer(self, unique_key: str, sip_user_id: str, answer: KeptAnswer) -> None:
        if self._takes_fact(unique_key, sip_user_id):
            self._facts.add(history_rows.answer_row(unique_key, sip_user_id, answer))

    def keep_joined(self, unique_key: str, sip_user_id: str, time: float) -> None:
        if self._takes_fact(unique_key, sip_user_id):
            self._facts.add(history_rows.joined_row(unique_key, sip_user_id, time))

    def keep_report(self, unique_key: str, sip_user_id: str, report: KeptReport) -> None:
        if self._takes_fact(unique_key, sip_user_id):
            self._facts.add(history_rows.report_row(unique_key, sip_user_id, report))

    def _takes_fact(self, unique_key: str, sip_user_id: str) -> bool:
        """
        Whether one more fact of a call is kept. Anyone who has its key may send any number, which
        must not use up what the account itself may send. A report may name any text; no call
        has a longer key.
        """
        if not self.recording or not 0 < len(unique_key) <= history_rows.LONGEST_TEXT:
            return False
        fact = unique_key, sip_user_id
        number = self._taken.pop(fact, 0) + 1
        self._taken[fact] = number
        if len(self._taken) > MOST_KEYS:
            self._taken.popitem(last=False)
        return number <= MOST_FACTS

    def keep_device_event(self, event: DeviceEvent) -> None:
        log_device_event(event)
        if self.recording:
            timed = attrs.evolve(event, time=event.time or self._wall())
            self._events.add(history_rows.device_event_row(timed, self.daemon))
