"""
Renews the records of the calls held here: restores what Redis has lost, and fetches settlements
whose message was lost.

At most :data:`AT_ONCE` calls are renewed at a time by each round, however many there are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.shared_calls import SharedCalls

INTERVAL_S = 1.0
MOST_A_ROUND = 1000
AT_ONCE = 32


class Renewals:
    """
    Renews each call that was not checked for a second; after trouble, all calls.

    :param renewed: notified of each call that Redis has again, or still.
    :param left: notified of each waiter that left during a renewal, with its call: Redis may have
        it again, since a command that is repeated (NOSCRIPT, MOVED) can overtake its removal.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Any,  # LoopingCall asks for Twisted's zope interface
        background: Background,
        held: HeldCalls,
        shared: SharedCalls,
        nodes: Nodes,
        renewed: Callable[[HeldCall], None],
        left: Callable[[HeldCall, str], None],
    ) -> None:
        self._clock = clock
        self._background = background
        self._held = held
        self._shared = shared
        self._nodes = nodes
        self._renewed = renewed
        self._left = left
        self._rounds = LoopingCall(self._round)
        self._rounds.clock = clock
        self._rounds_ended: Deferred[LoopingCall] | None = None
        self._renewing_all = False
        self._all_again = False
        self._all_renewed_at = -math.inf
        self._secret_due = True
        self._sharing_secret = False
        self._opened_at = -math.inf

    @property
    def behind(self) -> bool:
        """Whether Redis may not know some call that is held here."""
        return self._all_renewed_at < max(self._nodes.troubled_at, self._opened_at)

    def start(self) -> None:
        """Start the rounds."""
        self._rounds_ended = self._rounds.start(INTERVAL_S, now=False)

    async def stop(self) -> None:
        """End the rounds."""
        if self._rounds_ended is not None and self._rounds.running:
            self._rounds.stop()
            await self._rounds_ended

    def opened_without_redis(self) -> None:
        """A call was opened that Redis does not know."""
        self._opened_at = self._clock.seconds()

    def renew_all(self) -> None:
        """Renew every call: messages or records may have been lost."""
        self._all_again = True
        if not self._renewing_all:
            self._background.run(self._renew_all())

    async def share_secret(self) -> None:
        """
        Share the secret of fresh keys; without Redis the next round tries again.

        One at a time: another attempt, begun before ours was known, could win with its own
        after Redis has lost all.
        """
        self._secret_due = True
        if self._sharing_secret:
            return
        self._sharing_secret = True
        try:
            while self._secret_due:
                self._secret_due = False
                await self._shared.share_secret()
        except RendezvousDown:
            self._secret_due = True
        finally:
            self._sharing_secret = False

    def renew_later(self, held: HeldCall) -> None:
        """Renew one call in the background."""
        self._background.run(self._renew_each([held]))

    async def renew(self, held: HeldCall) -> str:
        """
        Make sure that Redis has the call, and apply the settlement that Redis knows.

        :return: the id of the waiter that wakes the device.
        :raises RendezvousDown: Redis does not reply.
        """
        waiter_ids = [waiter.id for waiter in held.waiters]
        waker = held.waker if held.is_woken_here else ""
        try:
            settlement, waker = await self._shared.renew(
                held.call, waiter_ids, waker, held.pushes, held.refusals
            )
        finally:
            if not held.is_answered:
                for waiter_id in set(waiter_ids).difference(each.id for each in held.waiters):
                    self._left(held, waiter_id)
        held.checked_at = self._clock.seconds()
        self._renewed(held)
        if settlement is not None:
            self._held.settle(held, settlement)
        return waker

    def _round(self) -> Deferred[None]:
        """Make up for lost messages; after trouble, renew everything."""
        if self.behind and self._nodes.up:
            self.renew_all()
        if self._secret_due:
            self._background.run(self.share_secret())
        before = self._clock.seconds() - INTERVAL_S
        stale = [held for held in self._to_renew() if held.checked_at < before]
        stale.sort(key=lambda held: held.checked_at)
        renewing = Deferred.fromCoroutine(self._renew_each(stale[:MOST_A_ROUND]))
        return renewing.addErrback(lambda failure: self.log.failure("check failed", failure))

    async def _renew_all(self) -> None:
        self._renewing_all = True
        try:
            while self._all_again:
                self._all_again = False
                began = self._clock.seconds()
                if not await self._renew_all_once():
                    return
                self._all_renewed_at = began
        finally:
            self._renewing_all = False

    async def _renew_all_once(self) -> bool:
        began = self._clock.seconds()
        calls = self._to_renew()
        await self._renew_each(calls)
        return not any(self._may_renew(held) and held.checked_at < began for held in calls)

    def _to_renew(self) -> list[HeldCall]:
        return [held for held in self._held.all() if self._may_renew(held)]

    def _may_renew(self, held: HeldCall) -> bool:
        """
        Whether it waits here. An expired one's record may be a later call's, and its timer may
        not have fired yet in a process that was paused.
        """
        past = held.expired or held.call.deadline <= self._clock.seconds()
        return bool(held.waiters) and not past

    async def _renew_each(self, calls: Sequence[HeldCall]) -> None:
        """Renew some at a time; each of these stops at its first failure."""
        pending = iter(calls)

        async def renew_next() -> None:
            with contextlib.suppress(RendezvousDown):
                for held in pending:
                    if self._may_renew(held):
                        await self.renew(held)

        at_once = min(len(calls), AT_ONCE)
        await gatherResults(
            [Deferred.fromCoroutine(renew_next()) for _ in range(at_once)], consumeErrors=True
        )
