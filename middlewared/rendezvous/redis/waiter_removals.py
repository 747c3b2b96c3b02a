"""
Removes waiters that have left from their records in Redis: thousands at once when a PBX goes.

Each removal is carried out, given up when its record has expired, or dropped when there are
more than :data:`MOST_KEPT` (its record then expires, too). At most :data:`AT_ONCE` run at a
time, so that a burst of them holds up neither Redis nor the reactor.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from itertools import islice

import attrs
from twisted.internet.defer import Deferred

from middlewared.background import Background
from middlewared.clock import Clock, DelayedCall
from middlewared.errors import RendezvousDown
from middlewared.model import Call
from middlewared.rendezvous.redis.records import identity_key

AT_ONCE = 128
MOST_KEPT = 20_000
RETRY_PAUSE_S = 0.25


@attrs.frozen(eq=False)
class WaiterRemoval:
    """
    The removal of one waiter from the record of its call.

    ``ended`` is called when Redis replies that no one waits for the call any more, or at the
    first failure: without Redis a call ends with its last waiter here.
    """

    call: Call
    waiter_id: str
    ended: Callable[[], None]


class WaiterRemovals:
    """
    The removals that are still to be made.

    :param remove: removes a waiter from a call's record; returns whether it was the last one.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        background: Background,
        remove: Callable[[str, str], Awaitable[bool]],
    ) -> None:
        self._clock = clock
        self._background = background
        self._remove = remove
        self._queue: OrderedDict[WaiterRemoval, None] = OrderedDict()
        self._failed: OrderedDict[WaiterRemoval, None] = OrderedDict()
        self._by_name: defaultdict[str, set[WaiterRemoval]] = defaultdict(set)
        self._running: dict[WaiterRemoval, list[Deferred[None]]] = {}
        self._starting = False
        self._retry: DelayedCall | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._queue) + len(self._failed) + len(self._running)

    def add(self, removal: WaiterRemoval) -> None:
        """Start ``removal`` now if few are running, else in its turn."""
        self._keep(self._queue, removal)
        self._start_queued()

    async def finish(self, call: Call) -> None:
        """
        Make those of ``call`` now: it is placed again, and must not meet its old waiters.

        Each is waited for, since Redis may refuse its first command (NOSCRIPT, MOVED) and run
        the repeated one after a command that was sent later.
        """
        if not self._by_name:
            return
        removals = {each for name in _names(call) for each in self._by_name.get(name, ())}
        for removal in removals - self._running.keys():
            self._start(removal)
        for removal in removals:
            if removal in self._running:
                ended: Deferred[None] = Deferred()
                self._running[removal].append(ended)
                await ended

    def stop(self) -> None:
        """Stop repeating; what is queued is still tried once."""
        self._stopped = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        for removal in self._failed:
            self._forget_names(removal)
        self._failed.clear()

    def _keep(self, queue: OrderedDict[WaiterRemoval, None], removal: WaiterRemoval) -> None:
        if len(self) >= MOST_KEPT:
            removal.ended()
            return
        queue[removal] = None
        for name in _names(removal.call):
            self._by_name[name].add(removal)

    def _forget_names(self, removal: WaiterRemoval) -> None:
        for name in _names(removal.call):
            self._by_name[name].discard(removal)
            if not self._by_name[name]:
                del self._by_name[name]

    def _start(self, removal: WaiterRemoval) -> None:
        self._queue.pop(removal, None)
        self._failed.pop(removal, None)
        self._running[removal] = []
        self._background.run(self._run(removal))

    async def _run(self, removal: WaiterRemoval) -> None:
        try:
            last = await self._remove(removal.call.unique_key, removal.waiter_id)
        except RendezvousDown:
            self._end_run(removal)
            removal.ended()
            self._repeat(removal)
        else:
            self._end_run(removal)
            if last:
                removal.ended()
            if not self._queue:  # Redis replies again
                self._queue_failed(1)
        self._start_queued()

    def _end_run(self, removal: WaiterRemoval) -> None:
        """No longer under way; those who wait for it go on."""
        self._forget_names(removal)
        for ended in self._running.pop(removal):
            ended.callback(None)

    def _start_queued(self) -> None:
        """Start as many as may run; a loop, since a removal may end as it starts."""
        if self._starting:
            return
        self._starting = True
        while self._queue and len(self._running) < AT_ONCE:
            self._start(next(iter(self._queue)))
        self._starting = False

    def _repeat(self, removal: WaiterRemoval) -> None:
        """Try again in a while, for as long as the record lives."""
        if self._stopped or removal.call.deadline <= self._clock.seconds():
            return
        self._keep(self._failed, attrs.evolve(removal, ended=_nothing))
        if self._retry is None or not self._retry.active():
            self._retry = self._clock.callLater(RETRY_PAUSE_S, self._try_again)

    def _try_again(self) -> None:
        self._queue_failed(AT_ONCE)
        self._start_queued()

    def _queue_failed(self, most: int) -> None:
        for removal in list(islice(self._failed, most)):
            del self._failed[removal]
            self._queue[removal] = None


def _names(call: Call) -> tuple[str, ...]:
    """What a repeat of ``call`` has in common with it: the key, or account and call_id."""
    identity = identity_key(call.incoming)
    return (call.unique_key, identity) if identity else (call.unique_key,)


def _nothing() -> None:
    """The end of a call is reported once."""
