"""
How many devices there are, counted in the background.

The one invariant: counting takes at most a hundredth of the database's time, and no caller
waits for it: the last result is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.logger import Logger

from middlewared.background import Background
from middlewared.clock import Clock, DelayedCall
from middlewared.devices.interface import Counts
from middlewared.errors import DatabaseDown
from middlewared.model import Platform

_INTERVAL_S = 20.0
_REST = 100
"""After a slow count, the next one waits this many times as long as it took."""


class Table(Protocol):
    """The part of the device registry that is needed."""

    async def count(self, silent_calls: int) -> Counts:
        """Count the devices, or raise DatabaseDown in time."""


class DeviceCounts:
    """
    Counts from :meth:`start` to :meth:`stop`.

    :param silent_calls: returns how many unanswered calls make a device silent; 0: none is.
    """

    _log = Logger()

    def __init__(self, *, table: Table, clock: Clock, silent_calls: Callable[[], int]) -> None:
        self._table = table
        self._clock = clock
        self._silent_calls = silent_calls
        self._counts: Counts | None = None
        self._counting = Background()
        self._timer: DelayedCall | None = None
        self._stopped = False

    @property
    def devices(self) -> Mapping[tuple[str, Platform], int]:
        """By app and platform; empty when they could not be counted."""
        return {} if self._counts is None else self._counts.devices

    @property
    def silent(self) -> int | None:
        """How many are silent; None when they could not be counted."""
        return None if self._counts is None else self._counts.silent

    def start(self) -> None:
        """Count now, and then at intervals."""
        self._timer = None
        self._counting.run(self._count())

    async def stop(self) -> None:
        """Stop counting; wait for a count in progress."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self._counting.finish()

    async def _count(self) -> None:
        began_at = self._clock.seconds()
        try:
            self._counts = await self._table.count(self._silent_calls())
        except DatabaseDown as error:
            self._counts = None
            self._log.debug("devices not counted: {error}", error=error)
        finally:
            if not self._stopped:
                took_s = self._clock.seconds() - began_at
                self._timer = self._clock.callLater(max(_INTERVAL_S, _REST * took_s), self.start)
