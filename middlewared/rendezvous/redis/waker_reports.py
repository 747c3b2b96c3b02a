"""
What the daemon that wakes a device stores in Redis for the others, without delaying the call.

The number of outstanding pushes: refusals then count alike everywhere, and a daemon that takes
over carries on from there.
"""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet.task import deferLater

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls
from middlewared.rendezvous.redis.shared_calls import SharedCalls

WAKER_DECIDES_S = 0.5
"""By then a waker that lives has decided whether refusals settle a call."""


class WakerReports:
    """Reports of the daemon that wakes a call's device."""

    def __init__(
        self,
        *,
        clock: Any,  # deferLater asks for Twisted's zope interface
        background: Background,
        held: HeldCalls,
        shared: SharedCalls,
    ) -> None:
        self._clock = clock
        self._background = background
        self._held = held
        self._shared = shared

    def pushes_changed(self, held: HeldCall) -> None:
        """The number of its outstanding pushes has changed."""
        self._background.run(self._report_pushes(held))

    def refused_elsewhere(self, unique_key: str) -> None:
        """The phone has refused the call as often as Redis knows of pushes."""
        held = self._held.find(unique_key)
        if held is not None and held.is_woken_here:
            self.pushes_changed(held)

    def left_to_waker(self, unique_key: str) -> None:
        """The waker was asked whether refusals settle the call; it may be dead."""
        self._background.run(self._decide_for_waker(unique_key))

    async def _report_pushes(self, held: HeldCall) -> None:
        await deferLater(self._clock, 0)  # the push itself goes first
        try:
            settlement = await self._shared.count(held.call.unique_key, held.pushes)
        except RendezvousDown:
            held.checked_at = 0.0  # the next round of renewals stores it
            self._held.settle_if_refused(held)
            return
        if settlement is not None:
            self._held.settle(held, settlement)

    async def _decide_for_waker(self, unique_key: str) -> None:
        await deferLater(self._clock, WAKER_DECIDES_S)
        with contextlib.suppress(RendezvousDown):
            await self._shared.count(unique_key, None)
