"""
Looking again at the calls held here: their records are put back into Redis when it has lost
them, and settlements whose message was lost are heard of.

A number of looks is under way at once, however many calls there are and however often Redis
comes back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.rendezvous.held import Held, HeldCalls
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.shared_calls import SharedCalls

INTERVAL_S = 1.0
MOST_A_ROUND = 1000
AT_ONCE = 32


class Renewals:
    """
    Once a second the calls that were not looked at for a second; all, after trouble.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Any,  # Twisted's own users of a clock ask for its zope type
        background: Background,
        held: HeldCalls,
        shared: SharedCalls,
        nodes: Nodes,
    ) -> None:
        self._clock = clock
        self._background = background
        self._held = held
        self._shared = shared
        self._nodes = nodes
        self._rounds = LoopingCall(self._round)
        self._rounds.clock = clock
        self._going_round: Deferred[LoopingCall] | None = None
        self._all_running = False
        self._all_again = False
        self._all_renewed_at = -math.inf
        self._secret_due = True
        self._alone_at = -math.inf

    @property
    def behind(self) -> bool:
        """Whether calls may be held here that Redis does not know."""
        return self._all_renewed_at < max(self._nodes.troubled_at, self._alone_at)

    def start(self) -> None:
        """Begin to look."""
        self._going_round = self._rounds.start(INTERVAL_S, now=False)

    async def stop(self) -> None:
        """Look no more."""
        if self._going_round is not None and self._rounds.running:
            self._rounds.stop()
            await self._going_round

    def opened_alone(self) -> None:
        """A call was opened that Redis does not know."""
        self._alone_at = self._clock.seconds()

    def renew_all(self) -> None:
        """Look at every call: messages may have been lost, or records."""
        self._all_again = True
        if not self._all_running:
            self._background.run(self._renew_all())

    async def learn_secret(self) -> None:
        """Share the secret of fresh keys; without Redis it is tried again in the next round."""
        self._secret_due = True
        with contextlib.suppress(RendezvousDown):
            await self._shared.learn_secret()
            self._secret_due = False

    def check(self, held: Held) -> None:
        """Look at one call."""
        self._background.run(self._renew_each([held]))

    async def renew(self, held: Held) -> str:
        """
        Make sure that Redis has the call, and hear its settlement.

        :return: the member that wakes the device.
        :raises RendezvousDown: Redis does not answer.
        """
        members = [place.member for place in held.places]
        waker = held.waker if held.wakes else ""
        settlement, waker = await self._shared.renew(
            held.call, members, waker, held.pushes, held.refusals
        )
        held.checked_at = self._clock.seconds()
        if settlement is not None:
            self._held.settle(held, settlement)
        return waker

    def _round(self) -> Deferred[None]:
        """Back up a lost message; after trouble, everything."""
        if self.behind and self._nodes.up:
            self.renew_all()
        if self._secret_due:
            self._background.run(self.learn_secret())
        before = self._clock.seconds() - INTERVAL_S
        stale = [held for held in self._held.all() if held.waits and held.checked_at < before]
        stale.sort(key=lambda held: held.checked_at)
        looking = Deferred.fromCoroutine(self._renew_each(stale[:MOST_A_ROUND]))
        return looking.addErrback(lambda failure: self.log.failure("check failed", failure))

    async def _renew_all(self) -> None:
        self._all_running = True
        try:
            while self._all_again:
                self._all_again = False
                began = self._clock.seconds()
                if not await self._renew_all_once():
                    return
                self._all_renewed_at = began
        finally:
            self._all_running = False

    async def _renew_all_once(self) -> bool:
        began = self._clock.seconds()
        calls = [held for held in self._held.all() if held.waits]
        await self._renew_each(calls)
        return not any(held.waits and held.checked_at < began for held in calls)

    async def _renew_each(self, calls: Sequence[Held]) -> None:
        """Some at once; the first failure ends it."""
        pending = iter(calls)

        async def renew_next() -> None:
            with contextlib.suppress(RendezvousDown):
                for held in pending:
                    if held.waits:
                        await self.renew(held)

        at_once = min(len(calls), AT_ONCE)
        await gatherResults(
            [Deferred.fromCoroutine(renew_next()) for _ in range(at_once)], consumeErrors=True
        )
