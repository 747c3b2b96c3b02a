"""
Batched writes to the database, off the path of a call.

``add`` never waits and never fails. The number of queued rows is bounded: while the database
is down the oldest are dropped. The same line is logged at most once a minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall
from middlewared.errors import DatabaseDown

_INTERVAL_S = 1.0
_BATCH = 500
_CAPACITY = 10_000
_REPORT_S = 60.0
_LASTS_S = 30.0
_AWAY = "away"

T = TypeVar("T")


class BatchedWrites(Generic[T]):
    """
    Writes the added rows once a second; :meth:`stop` writes the rest.

    :param name: names the rows in the log.
    :param write: stores rows in one transaction, or raises DatabaseDown.
    :param lost: called with the number of rows that were dropped.
    :param capacity: how many rows may be queued.
    :param batch: how many rows are written at once.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        write: Callable[[Sequence[T]], Coroutine[Deferred[Any], Any, None]],
        clock: Clock,
        lost: Callable[[int], None] = lambda _: None,
        capacity: int = _CAPACITY,
        batch: int = _BATCH,
    ) -> None:
        self._name = name
        self._write = write
        self._clock = clock
        self._rows: deque[T] = deque()
        self._count_lost = lost
        self._capacity = capacity
        self._batch = batch
        self._lost = 0
        self._failing_since: float | None = None
        self._logged_at: dict[str, float] = {}
        self._timer: DelayedCall | None = None
        self._flushing: Deferred[None] | None = None

    def add(self, *rows: T) -> None:
        """Queue rows, to be written within about a second."""
        self._rows.extend(rows)
        self._trim()
        self._schedule()

    async def stop(self) -> None:
        """Write the queued rows; those that the database does not accept now are lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            await self._flushing
        await self._write_all()
        if self._rows:
            self._count_lost(len(self._rows))
        if lost := self._lost + len(self._rows):
            self._log.warn("{name}: {rows} rows lost at shutdown", name=self._name, rows=lost)

    def _schedule(self) -> None:
        if self._rows and self._timer is None and self._flushing is None:
            self._timer = self._clock.callLater(_INTERVAL_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._flushing = writing = Deferred.fromCoroutine(self._write_all())
        writing.addCallback(self._flushed)

    def _flushed(self, _: object) -> None:
        self._flushing = None
        self._schedule()

    async def _write_all(self) -> None:
        while self._rows:
            batch = [self._rows.popleft() for _ in range(min(self._batch, len(self._rows)))]
            try:
                await self._write(batch)
            except DatabaseDown as error:
                self._rows.extendleft(reversed(batch))
                self._trim()
                self._report_failure(error)
                return
            except Exception:
                # Rows that cannot be written must not be retried for ever.
                self._count_lost(len(batch))
                what = "{name}: {rows} rows lost"
                if self._may_log(what):
                    self._log.failure(what, name=self._name, rows=len(batch))
            self._failing_since = None
            self._report_lost()

    def _trim(self) -> None:
        excess = len(self._rows) - self._capacity
        if excess <= 0:
            return
        for _ in range(excess):
            self._rows.popleft()
        self._count_lost(excess)
        if not self._lost and self._may_log(_AWAY):
            what = "{name}: the database is down, dropping the oldest rows"
            self._log.warn(what, name=self._name)
        self._lost += excess

    def _report_failure(self, error: DatabaseDown) -> None:
        """Report an outage that lasts: perhaps these rows alone cannot be written."""
        now = self._clock.seconds()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= _LASTS_S and self._may_log(_AWAY):
            what = "{name}: {rows} rows wait for the database: {error}"
            self._log.warn(what, name=self._name, rows=len(self._rows), error=error)

    def _report_lost(self) -> None:
        what = "{name}: writes again, {rows} rows were lost"
        if self._lost and self._may_log(what):
            self._log.warn(what, name=self._name, rows=self._lost)
            self._lost = 0

    def _may_log(self, what: str) -> bool:
        """Whether a minute has passed since the last line of a kind; the caller logs one now."""
        now, before = self._clock.seconds(), self._logged_at.get(what)
        if before is not None and now - before < _REPORT_S:
            return False
        self._logged_at[what] = now
        return True
