"""
A bound on the rate of our own repeats, so that they cannot keep an overload alive.
"""

from __future__ import annotations

from middlewared.clock import Clock


class Budget:
    """
    Allows ``burst`` repeats at once, and from then on ``per_s`` a second.
    """

    def __init__(self, *, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._counted_at = clock.seconds()

    def spend(self) -> bool:
        """Whether one more repeat is allowed now; it is then counted."""
        now = self._clock.seconds()
        earned = (now - self._counted_at) * self._per_s
        self._left = min(self._burst, self._left + max(0.0, earned))
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
