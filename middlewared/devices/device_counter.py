"""
Counts the devices in the background.

Counting takes at most a hundredth of the database's time. No caller waits for it: the last
result is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.clock import Clock, DelayedCall
from middlewared.devices.interface import DeviceCounts
from middlewared.errors import DatabaseDown
from middlewared.model import Platform

_INTERVAL_S = 20.0
_REST = 100
"""The pause after a count is at least this many times as long as the count took."""


class DeviceCounter:
    """
    Counts at intervals from :meth:`start` to :meth:`stop`.

    :param count: counts the devices, or raises DatabaseDown in time.
    :param silent_calls: returns how many unanswered calls make a device silent; 0: none is.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        count: Callable[[int], Coroutine[Deferred[Any], Any, DeviceCounts]],
        clock: Clock,
        silent_calls: Callable[[], int],
    ) -> None:
        self._count_devices = count
        self._clock = clock
        self._silent_calls = silent_calls
        self._counts: DeviceCounts | None = None
        self._counting = Background()
        self._timer: DelayedCall | None = None
        self._stopped = False

    @property
    def devices(self) -> Mapping[tuple[str, Platform], int]:
        """By app and platform; empty if they could not be counted."""
        return {} if self._counts is None else self._counts.devices

    @property
    def silent(self) -> int | None:
        """How many are silent; None if they could not be counted."""
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
            self._counts = await self._count_devices(self._silent_calls())
        except DatabaseDown as error:
            self._counts = None
            self._log.debug("devices not counted: {error}", error=error)
        finally:
            if not self._stopped:
                took_s = self._clock.seconds() - began_at
                self._timer = self._clock.callLater(max(_INTERVAL_S, _REST * took_s), self.start)
