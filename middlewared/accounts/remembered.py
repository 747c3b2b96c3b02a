"""
Results of earlier look-ups, by the credentials they were for.

The credentials themselves are not kept, only digests under a key that dies with the process.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import Generic, TypeVar

MAX_REMEMBERED = 20_000

T = TypeVar("T")


class Remembered(Generic[T]):
    """
    At most ``MAX_REMEMBERED`` results; those that were used last stay.

    ``now`` is the time by one monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._results: OrderedDict[bytes, tuple[T, float]] = OrderedDict()

    def get(self, secret: bytes, now: float, *, extend_s: float = 0.0) -> T | None:
        """
        The result for ``secret``; None: there is none, or its time is up.

        :param extend_s: a result that is found is kept at least that much longer.
        """
        if not self._results:
            return None
        digest = self._digest(secret)
        result, until = self._results.pop(digest, (None, now))
        if result is None or until <= now:
            return None
        self._results[digest] = result, max(until, now + extend_s)
        return result

    def put(self, secret: bytes, result: T, now: float, *, keep_s: float) -> None:
        """Keep ``result`` for ``keep_s`` seconds, if it is not displaced before."""
        digest = self._digest(secret)
        self._results.pop(digest, None)
        self._results[digest] = result, now + keep_s
        while len(self._results) > MAX_REMEMBERED or self._oldest_until() <= now:
            self._results.popitem(last=False)

    def _oldest_until(self) -> float:
        return next(iter(self._results.values()))[1]

    def _digest(self, secret: bytes) -> bytes:
        return hashlib.blake2b(secret, key=self._key, digest_size=32).digest()
