"""
Token buckets, which limit how often a client or an account may do something.

The table never holds more than ``max_keys``. It drops the least recently used
key, whose bucket has mostly filled up again; a key that is used all the time, even without success,
stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from middlewared.web.replies import TooManyRequests
from middlewared.web.settings import Rate


class TokenBuckets:
    """
    One bucket of tokens for each key.

    :param what: names what a token buys, for the error.
    """

    def __init__(self, what: str, *, max_keys: int = 20_000) -> None:
        self._what = what
        self._max_keys = max_keys
        # When each bucket is full again; the key that was used last is at the end.
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable, rate: Rate, now: float) -> None:
        """
        Take a token of ``key``.

        :raises TooManyRequests: none is left.
        """
        before = max(self._full_at.pop(key, now), now)
        full_at = before + 1 / rate.per_s
        missing_s = full_at - now - rate.burst / rate.per_s
        enough = missing_s < 1e-6  # sums of fractions are not exact
        self._full_at[key] = full_at if enough else before
        if len(self._full_at) > self._max_keys:
            self._full_at.popitem(last=False)
        if not enough:
            raise TooManyRequests(self._what, missing_s)

    def refund(self, key: Hashable, rate: Rate) -> None:
        """Undo a :meth:`take`: what the token was for does not count."""
        if key in self._full_at:
            self._full_at[key] -= 1 / rate.per_s
