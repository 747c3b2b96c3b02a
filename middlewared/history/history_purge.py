"""
Deletes rows that are too old or too many, a few at a time.

A step is short, and a pause follows that is much longer: registrations that share the
database's writer, and calls that share its connections, do not notice it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.clock import Clock, DelayedCall
from middlewared.errors import DatabaseDown
from middlewared.history.interface import PURGED, HistoryStore

ROUND_S = 20.0
"""From the end of a round to the next."""
FIRST_STEP = 100
FEWEST_ROWS, MOST_ROWS = 20, 1000
LONG_STEP_S = 0.008
"""A step that takes longer is followed by one of half as many rows."""
PAUSES = 4
"""A pause is this many times as long as the step before it, and at least :data:`PAUSE_S`."""
PAUSE_S = 0.01


class HistoryPurge:
    """Purges from :meth:`start` to :meth:`stop`."""

    _log = Logger()

    def __init__(self, *, store: HistoryStore, clock: Clock) -> None:
        self._store = store
        self._clock: Any = clock  # deferLater asks for Twisted's zope interface
        self._rows = FIRST_STEP
        self._work = Background()
        self._timer: DelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin a round now, and then at intervals."""
        self._timer = None
        self._work.run(self._round())

    async def stop(self) -> None:
        """Stop; a step in progress is finished by the database."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._work.cancel()
        await self._work.finish()

    async def _round(self) -> None:
        try:
            for table in PURGED:
                await self._purge(table)
        except DatabaseDown as error:
            self._log.debug("the history was not purged: {error}", error=error)
        except CancelledError:
            return
        finally:
            if not self._stopped:
                self._timer = self._clock.callLater(ROUND_S, self.start)

    async def _purge(self, table: str) -> None:
        while not self._stopped:
            most = self._rows
            began_at = self._clock.seconds()
            deleted = await self._store.purge_step(table, most)
            took_s = self._clock.seconds() - began_at
            self._adapt(took_s, full=deleted >= most)
            if deleted < most:
                return
            await deferLater(self._clock, max(PAUSE_S, PAUSES * took_s))

    def _adapt(self, took_s: float, *, full: bool) -> None:
        """Choose the size of the next step by the time of this one."""
        if took_s > LONG_STEP_S:
            self._rows = max(FEWEST_ROWS, self._rows // 2)
        elif full:
            self._rows = min(MOST_ROWS, self._rows * 5 // 4)
