"""
A brake on mass removals: many tokens that die at once indicate a fault of the provider.

Removals pause by the results of the last minute, which are counted by app and platform for
each second.
"""

from __future__ import annotations

from collections import deque

import attrs
from twisted.logger import Logger

from middlewared.clock import Clock
from middlewared.model import Platform
from middlewared.push.interface import Accepted, PushResult, TokenDead, TokenSuspect

WINDOW_S = 60
MAX_DEATHS = 10
"""In a minute; more pause removals if they are more than half of the results."""


@attrs.define
class _Second:
    at: int
    results: int = 0
    deaths: int = 0


class _TokenResults:
    """The results about the tokens of one app on one platform."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque()
        self.paused = False
        self.died_at = self.too_many_at = -float(WINDOW_S)
        self.ignored = 0

    def quiet(self, now: float) -> bool:
        """
        Whether a minute has passed without a death, or without too many of them.

        A large app loses some token every minute.
        """
        return now - min(self.died_at, self.too_many_at) >= WINDOW_S

    def idle(self, now: float) -> bool:
        """Whether there was no result in the last minute."""
        return self._seconds[-1].at <= now - WINDOW_S

    def count(self, now: float, *, dead: bool) -> None:
        second = int(now)
        if not self._seconds or self._seconds[-1].at != second:
            self._seconds.append(_Second(second))
        while self._seconds[0].at <= second - WINDOW_S:
            self._seconds.popleft()
        latest = self._seconds[-1]
        latest.results += 1
        if dead:
            latest.deaths += 1
            self.died_at = now

    def too_many_die(self) -> bool:
        deaths = sum(second.deaths for second in self._seconds)
        results = sum(second.results for second in self._seconds)
        return deaths > MAX_DEATHS and 2 * deaths > results


class RemovalBrake:
    """Counts the results of all providers, for calls and for notices."""

    _log = Logger()

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._apps: dict[tuple[str, Platform], _TokenResults] = {}

    def paused(self, app: str, platform: Platform) -> bool:
        """Whether dead devices of the app are kept for now."""
        found = self._apps.get((app, platform))
        return found is not None and found.paused and not found.quiet(self._clock.seconds())

    def record(self, app: str, platform: Platform, result: PushResult) -> None:
        """Count the result of a push; only those about its token matter."""
        if not isinstance(result, Accepted | TokenDead | TokenSuspect):
            return
        dead = isinstance(result, TokenDead)
        now = self._clock.seconds()
        found = self._apps.get((app, platform))
        if found is None:
            # Apps come and go with the configuration.
            self._apps = {key: each for key, each in self._apps.items() if not each.idle(now)}
            found = self._apps[app, platform] = _TokenResults()
        if found.paused and found.quiet(now):
            self._resume(app, platform, found)
        found.count(now, dead=dead)
        if (dead or found.paused) and found.too_many_die():
            found.too_many_at = now
            if not found.paused:
                self._pause(app, platform, found)
        found.ignored += dead and found.paused

    def _pause(self, app: str, platform: Platform, found: _TokenResults) -> None:
        found.paused = True
        self._log.error(
            "too many dead push tokens of {app} on {platform}: no device is removed until a"
            " minute passes without so many; check the provider's status page, and the"
            " credentials and app id of the section",
            app=app,
            platform=platform.value,
        )

    def _resume(self, app: str, platform: Platform, found: _TokenResults) -> None:
        self._log.warn(
            "dead devices of {app} on {platform} are removed again; {kept} verdicts were"
            " ignored meanwhile",
            app=app,
            platform=platform.value,
            kept=found.ignored,
        )
        found.paused, found.ignored = False, 0
