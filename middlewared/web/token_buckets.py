"""
Token buckets: how often a client or an account may ask for something.

The one invariant: the table never holds more than ``max_spenders``. A spender that is
forgotten is the one that asked the longest time ago, so its bucket has mostly filled up
again and it gains nothing; one that goes on asking, even in vain, is not forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from middlewared.web.replies import TooManyRequests
from middlewared.web.settings import Rate


class Buckets:
    """
    A bucket of tokens for each spender.

    :param what: names what a token buys, for the error.
    """

    def __init__(self, what: str, *, max_spenders: int = 20_000) -> None:
        self._what = what
        self._max_spenders = max_spenders
        # When each bucket is full again; the spender that came last is at the end.
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, spender: Hashable, rate: Rate, now: float) -> None:
        """
        Take a token of ``spender``.

        :raises TooManyRequests: it has none left.
        """
        before = max(self._full_at.pop(spender, now), now)
        full_at = before + 1 / rate.per_s
        missing_s = full_at - now - rate.burst / rate.per_s
        enough = missing_s < 1e-6  # sums of fractions are not exact
        self._full_at[spender] = full_at if enough else before
        if len(self._full_at) > self._max_spenders:
            self._full_at.popitem(last=False)
        if not enough:
            raise TooManyRequests(self._what, missing_s)

    def give_back(self, spender: Hashable, rate: Rate) -> None:
        """Undo a :meth:`take`: what it bought did not count."""
        if spender in self._full_at:
            self._full_at[spender] -= 1 / rate.per_s
