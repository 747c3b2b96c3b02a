"""
Whether the daemon has started: it may get calls from balancers.

It has once the database was reached, and Redis was too (or half a minute has passed), and
stays so: a dependency that goes away later does not make it start again. A daemon with a wrong
password for its database never has.
"""

from __future__ import annotations

from collections.abc import Callable

from middlewared.clock import Clock

REDIS_S = 30.0
"""How long Redis may be away from the start on; without it calls still work at one daemon."""


class Readiness:
    """
    Records, each time it is asked, what has been reached since the start.

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
        self._began_at = clock.seconds()

    @property
    def started(self) -> bool:
        """Whether the start is over. Balancers ask every second or two."""
        if not (self._database_reached and self._redis_reached):
            waited_s = self._clock.seconds() - self._began_at
            self._database_reached |= self._database_up() is True
            self._redis_reached |= self._redis_up() is not False or waited_s >= REDIS_S
        return self._database_reached and self._redis_reached
