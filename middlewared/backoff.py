"""How long to wait after failures before the next try."""

from __future__ import annotations

import random

MOST_DOUBLINGS = 16


def backoff_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """
    The pause after this many failures in a row, in seconds.

    It doubles with each failure from ``first_s`` to ``longest_s``. The jitter takes up to
    half of it away, so that many clients do not return in step.
    """
    doublings = min(max(failures, 1) - 1, MOST_DOUBLINGS)
    pause_s = min(first_s * 2.0**doublings, longest_s)
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
