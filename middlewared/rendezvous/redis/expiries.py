"""
What happens at a call's deadline: Redis decides whether an answer was first, at any daemon.

The request is answered :data:`REPLY_WAIT_S` later at the latest, whatever Redis does.
"""

from __future__ import annotations

import contextlib

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.errors import RendezvousDown
from middlewared.model import Outcome, Settlement
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls
from middlewared.rendezvous.late import WokenDevice
from middlewared.rendezvous.redis.shared_calls import SharedCalls
from middlewared.waiting import FairCall

REPLY_WAIT_S = 0.3
"""How long to wait for the reply of Redis, counting only time in which this process runs."""

STOOD_STILL_S = 0.5
"""A process this late was paused, and the other daemons may have been paused with it."""

OTHERS_WAKE_S = 0.5
"""After such a pause: how long the others have to read the answers that reached them."""


class Expiries:
    """Ends the calls of this daemon whose deadlines have passed."""

    def __init__(
        self, *, clock: Clock, background: Background, held: HeldCalls, shared: SharedCalls
    ) -> None:
        self._clock = clock
        self._background = background
        self._held = held
        self._shared = shared
        self._storing: set[HeldCall] = set()

    def expired(self, held: HeldCall) -> None:
        """The deadline of a call has passed; what had arrived here by then was read."""
        if self._clock.seconds() - held.call.deadline > STOOD_STILL_S:
            held.expiry = FairCall(self._clock, OTHERS_WAKE_S, self._decide, held)
        else:
            self._decide(held)

    def timed_out(self, held: HeldCall, woken: WokenDevice) -> None:
        """A call for which a device was woken here has timed out: make later answers late."""
        if held not in self._storing:
            self._background.run(self._store(held.call.unique_key, woken))

    def _decide(self, held: HeldCall) -> None:
        if not held.waiters:
            self._held.time_out(held)
            return
        held.expiry = FairCall(self._clock, REPLY_WAIT_S, self._held.time_out, held)
        self._background.run(self._ask(held))

    async def _ask(self, held: HeldCall) -> None:
        """Settle the call as Redis has it; it times out if Redis is away or does not know it."""
        waiter_ids, woken = [waiter.id for waiter in held.waiters], held.woken_device
        settlement = None
        self._storing.add(held)
        try:
            settlement = await self._shared.time_out(held.call.unique_key, waiter_ids, woken)
        except RendezvousDown:
            pass
        else:
            if settlement is None:
                self._storing.discard(held)
        self._held.settle(held, settlement or Settlement(Outcome.TIMEOUT))
        self._storing.discard(held)

    async def _store(self, unique_key: str, woken: WokenDevice) -> None:
        with contextlib.suppress(RendezvousDown):
            await self._shared.timed_out(unique_key, woken)
