"""The joins of this daemon for which Redis was asked and has not replied yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import attrs
from twisted.internet.defer import Deferred

from middlewared.model import Call, IncomingCall


@attrs.define(eq=False)
class JoinUnderWay:
    """
    One of them.

    :ivar cancelled: its call was cancelled when Redis already had the waiter.
    :ivar ended: fires at its end; for those who wait for that.
    """

    call: Call
    waiter_id: str
    cancelled: bool = False
    ended: list[Deferred[None]] = attrs.field(factory=list)


class JoinsUnderWay:
    """All of them; each ends soon, with Redis or without."""

    def __init__(self) -> None:
        self._joins: dict[str, JoinUnderWay] = {}
        self._keys: Counter[str] = Counter()

    def begin(self, call: Call, waiter_id: str) -> JoinUnderWay:
        """A waiter begins to join."""
        join = self._joins[waiter_id] = JoinUnderWay(call, waiter_id)
        self._keys[call.unique_key] += 1
        return join

    def end(self, join: JoinUnderWay) -> None:
        """It has joined, or failed to."""
        del self._joins[join.waiter_id]
        self._keys[join.call.unique_key] -= 1
        if not self._keys[join.call.unique_key]:
            del self._keys[join.call.unique_key]
        for ended in join.ended:
            ended.callback(None)

    def has_key(self, unique_key: str) -> bool:
        """Whether a call is being joined or opened with this key."""
        return unique_key in self._keys

    def cancelled(self, waiter_ids: Collection[str]) -> None:
        """The call of these waiters was cancelled."""
        for waiter_id in waiter_ids:
            if join := self._joins.get(waiter_id):
                join.cancelled = True

    async def finish(self, incoming: IncomingCall) -> None:
        """Wait for the end of those that join a call of this account and call_id."""
        for join in list(self._joins.values()):
            other = join.call.incoming
            same = (other.sip_user_id, other.call_id) == (incoming.sip_user_id, incoming.call_id)
            if same and join.waiter_id in self._joins:  # it may have ended before another one
                ended: Deferred[None] = Deferred()
                join.ended.append(ended)
                await ended
