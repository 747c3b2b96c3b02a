"""
How long a host takes to answer, and from when on its silence is suspicious. Pure.

The one invariant: the patience is never below ``SHORTEST_S``.
"""

from __future__ import annotations

SHORTEST_S = 0.7
_MARGIN = 1.5
_FORGETTING = 1 / 8


class Pace:
    """
    Adapts to slower answers at once, and back to faster ones gradually.

    A host that has become slow, or is far away, is thus not repeatedly taken for a dead path.
    """

    def __init__(self) -> None:
        self._slow_s = 0.0

    def answered(self, after_s: float) -> None:
        """The first byte of an answer came ``after_s`` after its request was sent."""
        slow_s = self._slow_s
        self._slow_s = max(after_s, slow_s + (after_s - slow_s) * _FORGETTING)

    def patience_s(self) -> float:
        """How long to wait for a first byte before the path is in doubt."""
        return max(SHORTEST_S, self._slow_s * _MARGIN)
