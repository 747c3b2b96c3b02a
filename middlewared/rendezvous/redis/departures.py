"""
Members that are to leave their records in Redis: thousands at once when a PBX goes.

Each departure is carried out, given up when its record has expired by itself, or dropped
when there are more than :data:`MOST_KEPT` (its record then expires, too). A bounded number
is under way at a time, so that a burst of them holds up neither Redis nor the reactor.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from itertools import islice

import attrs

from middlewared.background import Background
from middlewared.clock import Clock, DelayedCall
from middlewared.errors import RendezvousDown
from middlewared.model import Call
from middlewared.rendezvous.redis.records import identity_key

AT_ONCE = 128
MOST_KEPT = 20_000
RETRY_PAUSE_S = 0.25


@attrs.frozen(eq=False)
class Departure:
    """
    A member that leaves a call.

    ``ended`` is called when nobody waits at the call any more, as far as Redis says; or at
    the first failure, since without Redis a call ends with its last place here.
    """

    call: Call
    member: str
    ended: Callable[[], None]


class Departures:
    """
    The departures that are still to be made.

    :param leave: takes a member out of a call's record; True when that was the last one.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        background: Background,
        leave: Callable[[str, str], Awaitable[bool]],
    ) -> None:
        self._clock = clock
        self._background = background
        self._leave = leave
        self._queue: OrderedDict[Departure, None] = OrderedDict()
        self._failed: OrderedDict[Departure, None] = OrderedDict()
        self._named: defaultdict[str, set[Departure]] = defaultdict(set)
        self._under_way = 0
        self._going_on = False
        self._retry: DelayedCall | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._queue) + len(self._failed) + self._under_way

    def add(self, departure: Departure) -> None:
        """Make ``departure`` now when few are under way, else as soon as it is its turn."""
        self._keep(self._queue, departure)
        self._go_on()

    def hurry(self, call: Call) -> None:
        """Make those that concern ``call`` at once: it is placed again, and must not meet them."""
        if not self._named:
            return
        for name in _names(call):
            for departure in list(self._named.get(name, ())):
                self._take(departure)
                self._begin(departure)

    def stop(self) -> None:
        """Repeat no more; what is queued is still tried once."""
        self._stopped = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        for departure in list(self._failed):
            self._take(departure)

    def _keep(self, queue: OrderedDict[Departure, None], departure: Departure) -> None:
        if len(self) >= MOST_KEPT:
            departure.ended()
            return
        queue[departure] = None
        for name in _names(departure.call):
            self._named[name].add(departure)

    def _take(self, departure: Departure) -> None:
        self._queue.pop(departure, None)
        self._failed.pop(departure, None)
        for name in _names(departure.call):
            self._named[name].discard(departure)
            if not self._named[name]:
                del self._named[name]

    def _begin(self, departure: Departure) -> None:
        self._under_way += 1
        self._background.run(self._make(departure))

    async def _make(self, departure: Departure) -> None:
        try:
            ended = await self._leave(departure.call.unique_key, departure.member)
        except RendezvousDown:
            self._under_way -= 1
            departure.ended()
            self._repeat(departure)
        else:
            self._under_way -= 1
            if ended:
                departure.ended()
            if not self._queue:  # Redis answers again
                self._retry_some(1)
        self._go_on()

    def _go_on(self) -> None:
        """Begin as many as may be under way; a loop, since a departure may end as it begins."""
        if self._going_on:
            return
        self._going_on = True
        while self._queue and self._under_way < AT_ONCE:
            departure = next(iter(self._queue))
            self._take(departure)
            self._begin(departure)
        self._going_on = False

    def _repeat(self, departure: Departure) -> None:
        """Try again in a while, for as long as the record lives."""
        if self._stopped or departure.call.deadline <= self._clock.seconds():
            return
        self._keep(self._failed, attrs.evolve(departure, ended=_nothing))
        if self._retry is None or not self._retry.active():
            self._retry = self._clock.callLater(RETRY_PAUSE_S, self._try_again)

    def _try_again(self) -> None:
        self._retry_some(AT_ONCE)
        self._go_on()

    def _retry_some(self, most: int) -> None:
        for departure in list(islice(self._failed, most)):
            self._take(departure)
            self._keep(self._queue, departure)


def _names(call: Call) -> tuple[str, ...]:
    """What a repeat of ``call`` has in common with it: the key, or account and call_id."""
    identity = identity_key(call.incoming)
    return (call.unique_key, identity) if identity else (call.unique_key,)


def _nothing() -> None:
    """The end of a call is told once."""
