"""
Look-ups of devices that share a statement.

Look-ups that find every connection busy go out in one statement when a connection is free,
instead of queueing up one by one. A connection of PostgreSQL runs one statement in each turn of
the reactor, and the turns of a busy daemon are long; SQLite's thread takes and returns the
interpreter's lock several times for each statement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.database import Row
from middlewared.errors import DatabaseDown
from middlewared.model import SipUserId
from middlewared.waiting import FairTimeouts

Ids: TypeAlias = Sequence[SipUserId]
SelectRows: TypeAlias = Callable[[Callable[[], Ids]], Awaitable[Sequence[Row]]]
"""Fetches rows; asks for the ids once it has a connection, and again when it repeats."""

MAX_IDS = 1000
QUICKLY_S = 0.2
"""
How long a quick look-up may take. A database that is up answers in a few milliseconds; one that
hangs would take its whole deadline from every call's wait.
"""
# The statement has the deadline of its first look-up, which must not be too early for the last.
OPEN_S = 0.05


class LookupBatch:
    """Look-ups that wait for the same statement."""

    def __init__(self, opened_at: float) -> None:
        self._opened_at = opened_at
        self._waiters: dict[SipUserId, list[Deferred[Row | None]]] = defaultdict(list)
        self._open = True

    def accepts(self, now: float) -> bool:
        """Whether another look-up may join."""
        has_room = len(self._waiters) < MAX_IDS
        return self._open and has_room and now < self._opened_at + OPEN_S

    def join(self, sip_user_id: SipUserId) -> Deferred[Row | None]:
        """Fires with the row of ``sip_user_id``, or None if there is none."""
        waiter: Deferred[Row | None] = Deferred()
        self._waiters[sip_user_id].append(waiter)
        return waiter

    def close(self) -> Ids:
        """The accounts to look up; no look-up joins from now on."""
        self._open = False
        return list(self._waiters)

    async def run(self, select: SelectRows) -> None:
        """Run the statement and notify all waiters."""
        try:
            rows = {row[0]: row for row in await select(self.close)}
        except Exception:
            failure = Failure()
            self.close()
            self._notify(lambda waiter, _: waiter.errback(failure))
        else:
            self._notify(lambda waiter, sip_user_id: waiter.callback(rows.get(sip_user_id)))

    def _notify(self, fire: Callable[[Deferred[Row | None], SipUserId], None]) -> None:
        for sip_user_id, waiters in self._waiters.items():
            for waiter in waiters:
                if not waiter.called:  # else it was too late, or its caller has gone
                    fire(waiter, sip_user_id)


class BatchedLookups:
    """:param select: runs the statements."""

    def __init__(self, *, clock: Clock, select: SelectRows) -> None:
        self._clock = clock
        self._select = select
        self._batch: LookupBatch | None = None
        self._background = Background()
        self._timeouts = FairTimeouts(clock=clock, timeout_s=QUICKLY_S, late=_too_slow)

    async def find(self, sip_user_id: SipUserId, *, quickly: bool = False) -> Row | None:
        """
        The row of one device; None if there is none.

        Cancelling it does not reach the statement.

        :raises DatabaseDown: it took longer than :data:`QUICKLY_S`, if ``quickly``.
        :raises Exception: what ``select`` raises.
        """
        now = self._clock.seconds()
        batch = self._batch
        if batch is not None and batch.accepts(now):
            waiter = batch.join(sip_user_id)
        else:
            self._batch = batch = LookupBatch(now)
            waiter = batch.join(sip_user_id)
            self._background.run(batch.run(self._select))
        if not quickly or waiter.called:
            return await waiter
        self._timeouts.begin(waiter)
        try:
            return await waiter
        finally:
            self._timeouts.end(waiter)


def _too_slow(waiter: Deferred[Row | None]) -> None:
    waiter.errback(DatabaseDown(f"the database did not answer in {QUICKLY_S:g} s"))
