"""
What the daemon that wakes a device shares with the others, without delaying the call: how many
pushes are outstanding, so that refusals count the same everywhere and a daemon that takes over
carries on from there; and that the call has timed out, so that an answer is known to be late.
"""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet.task import deferLater

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.rendezvous.held import Held, HeldCalls
from middlewared.rendezvous.late import Woken
from middlewared.rendezvous.redis.shared_calls import SharedCalls

WAKER_DECIDES_S = 0.5
"""After this time a waker that lives has decided a call by its refusals, or has not."""


class PushCounts:
    """Reports of the daemon that wakes a call's device."""

    def __init__(
        self,
        *,
        clock: Any,  # Twisted's own callers want its zope interface
        background: Background,
        held: HeldCalls,
        shared: SharedCalls,
    ) -> None:
        self._clock = clock
        self._background = background
        self._held = held
        self._shared = shared

    def counted(self, held: Held) -> None:
        """Its number of outstanding pushes has changed."""
        self._background.run(self._count(held))

    def refused(self, unique_key: str) -> None:
        """The phone has refused the call elsewhere, as often as Redis knows of pushes."""
        held = self._held.find(unique_key)
        if held is not None and held.wakes:
            self.counted(held)

    def left(self, unique_key: str) -> None:
        """The waker was asked whether refusals decide; it may be dead."""
        self._background.run(self._decide(unique_key))

    def expired(self, unique_key: str, woken: Woken) -> None:
        """A call for which a device was woken has timed out."""
        self._background.run(self._expire(unique_key, woken))

    async def _count(self, held: Held) -> None:
        await deferLater(self._clock, 0)  # let the push itself go first
        try:
            stands = await self._shared.count(held.call.unique_key, held.pushes)
        except RendezvousDown:
            held.checked_at = 0.0  # the next round of renewals stores it
            self._held.count(held)
            return
        if stands is not None:
            self._held.settle(held, stands)

    async def _decide(self, unique_key: str) -> None:
        await deferLater(self._clock, WAKER_DECIDES_S)
        with contextlib.suppress(RendezvousDown):
            await self._shared.count(unique_key, None)

    async def _expire(self, unique_key: str, woken: Woken) -> None:
        with contextlib.suppress(RendezvousDown):
            await self._shared.expired(unique_key, woken)
