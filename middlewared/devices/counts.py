"""
How many devices there are, counted in the background.

The one invariant: a count costs the database at most a hundredth of its time, and no one
waits for it: who asks gets what the last one found.
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
"""After a count that took long the next one waits so many times as long."""


class Table(Protocol):
    """What is needed of the device registry."""

    async def count(self, silent_calls: int) -> Counts:
        """Count the devices, or raise DatabaseDown in time."""


class DeviceCounts:
    """
    Counts from :meth:`start` to :meth:`stop`.

    :param silent_calls: gives how many unanswered calls make a device silent; 0: none is.
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
        """By app and platform; none when they could not be counted."""
        return {} if self._counts is None else self._counts.devices

    @property
    def silent(self) -> int | None:
        """How many are silent; None when they could not be counted."""
        return None if self._counts is None else self._counts.silent

    def start(self) -> None:
        """Count now, and again and again."""
        self._timer = None
        self._counting.run(self._count())

    async def stop(self) -> None:
        """Count no more; wait for the count under way."""
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
