"""
Look-ups of devices that go to the database together.

The one invariant: a look-up waits for no other. Those that find every connection busy
share the statement that goes out when one is free, instead of queueing up one by one:
a connection does one statement in each turn of the reactor, and a busy daemon's turns
are long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.devices.queries import Row

Ids: TypeAlias = Sequence[int]

MOST_TOGETHER = 1000
# The statement's deadline is that of the first, which must not cut the others' short.
OPEN_S = 0.05


class Batch:
    """Look-ups that wait for a connection; ``select`` gives the rows, their ids first."""

    def __init__(self, opened_at: float) -> None:
        self._opened_at = opened_at
        self._waiting: dict[int, list[Deferred[Row | None]]] = defaultdict(list)
        self._open = True

    def takes(self, now: float) -> bool:
        """Whether one more may join."""
        few = len(self._waiting) < MOST_TOGETHER
        return self._open and few and now < self._opened_at + OPEN_S

    def join(self, sip_user_id: int) -> Deferred[Row | None]:
        """Fires with the row of ``sip_user_id``, None when there is none."""
        waiter: Deferred[Row | None] = Deferred()
        self._waiting[sip_user_id].append(waiter)
        return waiter

    def close(self) -> Ids:
        """Whose rows are wanted; nobody joins from now on."""
        self._open = False
        return list(self._waiting)

    async def run(self, select: Callable[[Callable[[], Ids]], Awaitable[Sequence[Row]]]) -> None:
        """Ask, and tell all who wait."""
        try:
            rows = {row[0]: row for row in await select(self.close)}
        except Exception:
            failure = Failure()
            self.close()
            self._tell(lambda waiter, _: waiter.errback(failure))
        else:
            self._tell(lambda waiter, sip_user_id: waiter.callback(rows.get(sip_user_id)))

    def _tell(self, tell: Callable[[Deferred[Row | None], int], None]) -> None:
        for sip_user_id, waiters in self._waiting.items():
            for waiter in waiters:
                tell(waiter, sip_user_id)


class LookUps:
    """
    :param select: given a function that tells the ids, which it calls when it has a
        connection (and again when it has to repeat itself), fetches their rows.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        select: Callable[[Callable[[], Ids]], Awaitable[Sequence[Row]]],
    ) -> None:
        self._clock = clock
        self._select = select
        self._batch: Batch | None = None
        self._background = Background()

    async def find(self, sip_user_id: int) -> Row | None:
        """
        The row of one device, None when there is none.

        Cancelling it does not reach the statement. :raises: what ``select`` raises.
        """
        now = self._clock.seconds()
        if self._batch is not None and self._batch.takes(now):
            return await self._batch.join(sip_user_id)
        self._batch = batch = Batch(now)
        waiter = batch.join(sip_user_id)
        self._background.run(batch.run(self._select))
        return await waiter
