"""
Logging that a provider refuses pushes or cannot be reached.

The one invariant: at most one line a minute for each problem, not one for each push.
"""

from __future__ import annotations

from math import inf

from twisted.logger import Logger

from middlewared.clock import Clock

SAME_LINE_EVERY_S = 60.0
MOST_LINES_KEPT = 50


class Troubles:
    """
    The problems of one app's pushes.

    :param provider: its name, for the log.
    """

    _log = Logger()

    def __init__(self, *, provider: str, app: str, clock: Clock) -> None:
        self._provider = provider
        self._app = app
        self._clock = clock
        self._told: dict[str, float] = {}

    def refused(self, why: str) -> None:
        """The provider refuses a push because of a fault on our side."""
        if self._is_news(why):
            self._log.error(
                "{provider} refuses pushes of {app}: {why}",
                provider=self._provider,
                app=self._app,
                why=why,
            )

    def failed(self, why: str) -> None:
        """There was no answer; it may be temporary."""
        if self._is_news(why):
            self._log.warn("cannot push for {app}: {why}", app=self._app, why=why)

    def _is_news(self, trouble: str) -> bool:
        now = self._clock.seconds()
        if now < self._told.get(trouble, -inf) + SAME_LINE_EVERY_S:
            return False
        if len(self._told) >= MOST_LINES_KEPT:
            self._told.clear()
        self._told[trouble] = now
        return True
