"""
Overload control: whether a new call is taken, depending on how late the event loop runs.

The loop works in turns: it waits for sockets, then serves everything that is ready. What
arrives during a turn waits until the turn is over, so the length of turns is the lateness
of everything the daemon does. Below capacity, turns are short or end in a wait. Above it,
each turn brings more work than the one before, and they grow without bound.

docs/overload.md explains the design and the figures behind the constants.
"""

from __future__ import annotations

from math import inf

from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall
from middlewared.metrics import Metrics

SHORT_TURN_S = 0.02
"""A turn shorter than this shows that no work is queueing."""
GRACE_S = 0.15
"""How long a burst of work may last before it counts as overload (CoDel's interval)."""
WARY_GRACE_S = 0.03
"""The same within :data:`WARY_S` after an overload, which may come and go."""
WARY_S = 1.0
BURST_CALLS = 10
"""How many calls are taken after the loop was last calm, however long a turn lasts."""
ADMIT_S = 0.01
"""Under overload, new calls are taken only in this first part of each turn."""
LAG_PERIOD_S = 0.1
"""The lag metric gets the longest turn of each such period with work."""
RECENT_S = 1.0
"""The lag in /health/ is the longest turn of the last one or two such periods."""
REPORT_S = 1.0


class LongestTurn:
    """The longest turn of the last full period, or of the current one if that is longer."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._began_at = 0.0
        self._before_s = 0.0
        self._longest_s = 0.0

    def add(self, length_s: float, now: float) -> None:
        """A turn of ``length_s`` has ended."""
        self._turn_over(now)
        self._longest_s = max(self._longest_s, length_s)

    def seconds(self, now: float) -> float:
        """The longest recent turn."""
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

    The loop is late if for longer than :data:`GRACE_S` no turn was short and none began idle,
    and :data:`BURST_CALLS` calls were taken meanwhile. A single long turn is not overload, but
    a burst or a pause of the whole process. While the loop is late, new calls are taken in the
    first :data:`ADMIT_S` of each turn and refused in the rest of it. Phones' answers, hang-ups,
    provider replies and timers are never refused: they take what they need of each turn, and
    new calls get what is left.
    """

    log = Logger()

    def __init__(self, *, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        now = clock.seconds()
        self._turn_began_at = now
        self._calm_at = inf  # never late on a reactor that does not report its turns
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
        """Count a call that was refused; refusals are reported together once a second."""
        self._refused += 1
        if self._reporting is None:
            self._reporting = self._clock.callLater(REPORT_S, self.report)

    def report(self) -> None:
        """Report the calls refused since the last report; also called at the stop."""
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

        :param idle: no socket was ready when the turn before it ended.
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
