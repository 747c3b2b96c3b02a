"""
Logging why pushes fail: at most one line a minute for each problem, not one for each push.
"""

from __future__ import annotations

from math import inf

from twisted.logger import Logger

from middlewared.clock import Clock

SAME_LINE_EVERY_S = 60.0
MAX_LINES_KEPT = 50


class LineLimit:
    """Decides whether a line is logged again; remembers ``MAX_LINES_KEPT``."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def allows(self, line: str) -> bool:
        """Whether ``line`` was not allowed within the last minute."""
        now = self._clock.seconds()
        if now < self._logged_at.get(line, -inf) + SAME_LINE_EVERY_S:
            return False
        if len(self._logged_at) >= MAX_LINES_KEPT:
            self._logged_at.clear()
        self._logged_at[line] = now
        return True


class ProblemLog:
    """
    The problems of one app's pushes.

    :param provider: its name, for the log.
    """

    _log = Logger()

    def __init__(self, *, provider: str, app: str, clock: Clock) -> None:
        self._provider = provider
        self._app = app
        self._limit = LineLimit(clock=clock)

    def refused(self, why: str) -> None:
        """The provider refuses a push because of a fault on our side."""
        if self._limit.allows(why):
            self._log.error(
                "{provider} refuses pushes of {app}: {why}",
                provider=self._provider,
                app=self._app,
                why=why,
            )

    def suspected(self, why: str) -> None:
        """The provider refuses a token that belongs to another app, topic or project."""
        if self._limit.allows(f"token: {why}"):
            self._log.warn(
                "{provider} refuses push tokens of {app}: {why}",
                provider=self._provider,
                app=self._app,
                why=why,
            )

    def failed(self, why: str) -> None:
        """The provider did not respond; it may be temporary."""
        if self._limit.allows(why):
            self._log.warn("cannot push for {app}: {why}", app=self._app, why=why)
