"""
Whether the daemon has started: it may get calls from balancers.

It has once the database was reached, and Redis as well or half a minute passed in vain, and
stays so: a dependency that goes away later does not make it start again. A daemon with a wrong
password for its database never has.
"""

from __future__ import annotations

from collections.abc import Callable

from middlewared.clock import Clock, DelayedCall

REDIS_S = 30.0
"""How long Redis may be away from the start on; without it calls still work at one daemon."""

INTERVAL_S = 0.1


class Readiness:
    """
    Asks until all was reached.

    :param database_up: whether the database was reached when it was last asked; None: not yet.
    :param redis_up: likewise; None: it is not used.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database_up: Callable[[], bool | None],
        redis_up: Callable[[], bool | None],
    ) -> None:
        self._clock = clock
        self._database_up = database_up
        self._redis_up = redis_up
        self._database_reached = False
        self._redis_reached = False
        self._began_at = 0.0
        self._timer: DelayedCall | None = None

    @property
    def started(self) -> bool:
        """Whether the start is over."""
        return self._database_reached and self._redis_reached

    def start(self) -> None:
        """Begin to ask."""
        self._began_at = self._clock.seconds()
        self._ask()

    def stop(self) -> None:
        """Ask no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _ask(self) -> None:
        waited_s = self._clock.seconds() - self._began_at
        self._database_reached |= self._database_up() is True
        self._redis_reached |= self._redis_up() is not False or waited_s >= REDIS_S
        if not self.started:
            self._timer = self._clock.callLater(INTERVAL_S, self._ask)
