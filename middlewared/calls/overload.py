"""
Overload control: whether a new call is taken, judged by how late the event loop runs.

The loop works in turns: it waits for sockets, then serves everything that is ready. What
arrives during a turn waits until the turn is over, so the length of turns is the lateness
of everything the daemon does. Below capacity turns are short, or end in a wait. Above it
each turn brings more work than the one before, and they grow without bound.

docs/overload.md explains the design and the figures behind the constants.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall

SHORT_TURN_S = 0.02
"""A turn of this length shows that nothing queues."""
GRACE_S = 0.15
"""So long a burst of work may last before it counts as overload (CoDel's interval)."""
WARY_GRACE_S = 0.03
"""The same while an overload was seen less than :data:`WARY_S` ago: it comes and goes."""
WARY_S = 1.0
BURST_CALLS = 10
"""So many calls are taken since the loop was last calm, however long a turn lasts."""
ADMIT_S = 0.01
"""Under overload, new calls are taken in the first part of each turn only."""
LAG_PERIOD_S = 0.1
"""The lag metric has the longest turn of each such period in which there was work."""
RECENT_S = 1.0
"""The lag that /health/ shows is the longest turn of the last one or two such periods."""
REPORT_S = 1.0


class OverloadMetrics(Protocol):
    """Implemented by :class:`middlewared.metrics.Metrics`."""

    def loop_lag(self, seconds: float) -> None:
        """The longest turn of the event loop in a tenth of a second with work."""

    def calls_shed(self, count: int) -> None:
        """So many calls were refused because of overload."""


class LongestTurn:
    """The longest turn of the last full period, or of the present one if that is longer."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._began_at = 0.0
        self._before_s = 0.0
        self._longest_s = 0.0

    def add(self, length_s: float, now: float) -> None:
        """A turn of ``length_s`` ends."""
        self._turn_over(now)
        self._longest_s = max(self._longest_s, length_s)

    def seconds(self, now: float) -> float:
        """The longest turn lately."""
        self._turn_over(now)
        return max(self._before_s, self._longest_s)

    def _turn_over(self, now: float) -> None:
        age_s = now - self._began_at
        if age_s >= self._period_s:
            self._before_s = self._longest_s if age_s < 2 * self._period_s else 0.0
            self._longest_s, self._began_at = 0.0, now


class Overload:
    """
    Watches the turns of the event loop and admits new calls.

    The loop is late once no turn was short, and none found the loop idle, for longer than
    :data:`GRACE_S`, and :data:`BURST_CALLS` were taken meanwhile. A single long turn is no
    overload: a pause of the whole process, a burst. While the loop is late, new calls are
    taken in the first :data:`ADMIT_S` of each turn and refused in the rest of it: phones'
    answers, hang-ups, provider replies and timers are never refused, so they take what they
    need of each turn, and new calls get what is left.
    """

    log = Logger()

    def __init__(self, *, clock: Clock, metrics: OverloadMetrics) -> None:
        self._clock = clock
        self._metrics = metrics
        now = clock.seconds()
        self._turn_began_at = now
        self._calm_at = inf  # never late on a reactor that does not show its turns
        self._taken = 0
        self._wary_until = now
        self._sampled_at = now
        self._sample_s = 0.0
        self._recent = LongestTurn(RECENT_S)
        self._refused = 0
        self._reporting: DelayedCall | None = None

    @property
    def late(self) -> bool:
        """Whether work has been queueing for longer than a burst may last."""
        return self._is_late(self._clock.seconds())

    @property
    def lag_s(self) -> float:
        """The longest turn of the last second or two."""
        return self._recent.seconds(self._clock.seconds())

    def admits(self) -> bool:
        """Whether a new call is taken now."""
        now = self._clock.seconds()
        return not self._is_late(now) or now - self._turn_began_at <= ADMIT_S

    def taken(self) -> None:
        """Count a call that was taken."""
        self._taken += 1

    def refuse(self) -> None:
        """Count a call that was refused; they are reported together once a second."""
        self._refused += 1
        if self._reporting is None:
            self._reporting = self._clock.callLater(REPORT_S, self.report)

    def report(self) -> None:
        """Report what was refused since the last report; also to be called at the end."""
        timer, self._reporting = self._reporting, None
        if timer is not None and timer.active():
            timer.cancel()
        refused, self._refused = self._refused, 0
        if refused:
            self._metrics.calls_shed(refused)
            self.log.warn(
                "{refused} calls refused: overloaded (event loop {lag_ms} ms late)",
                refused=refused,
                lag_ms=round(self.lag_s * 1000),
            )

    def turn_began(self, idle: bool) -> None:
        """
        The event loop begins to serve the sockets that are ready.

        :param idle: none was ready when the turn before it ended.
        """
        now = self._turn_began_at = self._clock.seconds()
        if idle:
            self._calm(now)

    def turn_ended(self) -> None:
        """The event loop has served everything and is about to wait for sockets."""
        now = self._clock.seconds()
        length_s = now - self._turn_began_at
        if length_s < SHORT_TURN_S:
            self._calm(now)
        self._sample_s = max(self._sample_s, length_s)
        if now - self._sampled_at >= LAG_PERIOD_S:
            self._metrics.loop_lag(self._sample_s)
            self._recent.add(self._sample_s, now)
            self._sample_s, self._sampled_at = 0.0, now

    def _calm(self, now: float) -> None:
        self._calm_at, self._taken = now, 0

    def _is_late(self, now: float) -> bool:
        grace_s = WARY_GRACE_S if now < self._wary_until else GRACE_S
        late = now - self._calm_at > grace_s and self._taken >= BURST_CALLS
        if late:
            self._wary_until = now + WARY_S
        return late
