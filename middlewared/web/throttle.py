"""
The throttle against guessing credentials.

The one invariant: the table never holds more than ``max_guessers``, whoever guesses.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import attrs

from middlewared.web.replies import TooManyRefusals


@attrs.define
class _Window:
    ends_at: float
    refusals: int = 0


class Throttle:
    """
    Counts refusals of each guesser in windows that begin with the first refusal.

    :param max_guessers: above it the guesser whose window is the oldest is forgotten.
    """

    def __init__(self, *, max_guessers: int = 10_000) -> None:
        self._max_guessers = max_guessers
        self._windows: dict[Hashable, _Window] = {}

    def check(self, guessers: Iterable[Hashable], allowed: int, now: float) -> None:
        """
        :raises TooManyRefusals: one of ``guessers`` had ``allowed`` refusals in its window.
        """
        for guesser in guessers:
            window = self._windows.get(guesser)
            if window and window.refusals >= allowed and window.ends_at > now:
                raise TooManyRefusals(math.ceil(window.ends_at - now))

    def refused(self, guessers: Iterable[Hashable], window_s: float, now: float) -> None:
        """Count one refusal against each of ``guessers``."""
        for guesser in guessers:
            window = self._windows.get(guesser)
            if window is None or window.ends_at <= now:
                # A window that begins anew goes to the end: the dict stays in order of age.
                self._windows.pop(guesser, None)
                window = self._windows[guesser] = _Window(now + window_s)
            window.refusals += 1
        while len(self._windows) > self._max_guessers:
            del self._windows[next(iter(self._windows))]
