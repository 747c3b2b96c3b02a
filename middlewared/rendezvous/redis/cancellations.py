"""
Cancels calls: Redis decides whether the caller gave up before a phone answered.

A cancellation ends the requests that Redis had added to the call by then, and no others: the
PBX may already have placed the call again, here or at another daemon, with the same key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from middlewared.errors import RendezvousDown
from middlewared.model import IncomingCall, Outcome, Settlement
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls, LocalWaiter
from middlewared.rendezvous.redis.joins_under_way import JoinsUnderWay, JoinUnderWay
from middlewared.rendezvous.redis.shared_calls import CallCancelled, SharedCalls
from middlewared.rendezvous.redis.unrecorded_calls import UnrecordedCalls

CANCELLED = Settlement(Outcome.CANCELLED)


class Cancellations:
    """
    :param remove: removes a waiter, by its id, from the record of its call.
    """

    def __init__(
        self,
        *,
        held: HeldCalls,
        shared: SharedCalls,
        joins: JoinsUnderWay,
        unrecorded: UnrecordedCalls,
        remove: Callable[[HeldCall, str], None],
    ) -> None:
        self._held = held
        self._shared = shared
        self._joins = joins
        self._unrecorded = unrecorded
        self._remove = remove

    async def cancel(self, incoming: IncomingCall) -> bool:
        """See :meth:`middlewared.rendezvous.interface.Rendezvous.cancel`."""
        await self._joins.finish(incoming)  # the requests that arrived here before this one
        down: RendezvousDown | None = None
        try:
            reply = await self._shared.cancel(incoming, secrets.token_hex(8))
        except RendezvousDown as error:
            down, reply = error, False
        if isinstance(reply, CallCancelled):
            self.received(reply.unique_key, *reply.waiter_ids)
            return True
        return not reply and await self._cancel_unrecorded(incoming, down)

    def received(self, unique_key: str, *waiter_ids: str) -> None:
        """A script has cancelled a call for these waiters."""
        self._joins.cancelled(waiter_ids)
        held = self._held.find(unique_key)
        if held is not None and held.settlement is None and held.has_any_of(waiter_ids):
            self._settle(held)

    def must_repeat(self, join: JoinUnderWay, waiter: LocalWaiter) -> bool:
        """
        Whether a waiter joined a call at this daemon that had been cancelled before.

        A waiter that Redis had added by then is cancelled as well.
        """
        if join.cancelled and not waiter.settled.called:
            self._settle(waiter.held)
        return waiter.held.settlement == CANCELLED and not join.cancelled

    def cancel_here(self, incoming: IncomingCall) -> bool:
        """Cancel a call for those who wait here, as Redis may not know it; False: none does."""
        held = self._held.find_repeated(incoming)
        if held is None or held.settlement is not None:
            return False
        self._settle(held)
        return True

    async def _cancel_unrecorded(self, incoming: IncomingCall, down: RendezvousDown | None) -> bool:
        """Redis is ``down``, or does not know the call: the daemons may."""
        held = self._held.find_repeated(incoming)
        if held is not None and held.is_answered:
            return False
        if await self._unrecorded.cancel(incoming, down=down is not None):
            return True
        if down is not None:
            raise down
        if not self._unrecorded.redis_knows_all():
            raise RendezvousDown("a daemon that may hold the call cannot be asked")
        return False

    def _settle(self, held: HeldCall) -> None:
        """
        Notify those who wait here, and remove them from the record: it may be one that was not
        cancelled, or that of a later call to which a renewal has just added them.
        """
        waiter_ids = [waiter.id for waiter in held.waiters]
        self._held.settle(held, CANCELLED)
        for waiter_id in waiter_ids:
            self._remove(held, waiter_id)
