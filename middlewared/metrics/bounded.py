"""
Metrics with a bound on their label sets.

No label value from outside makes the memory or a scrape grow without end: each is cut at
``LONGEST_LABEL`` characters, and a metric has at most ``MOST_LABEL_SETS`` sets, the last of
which takes over what the others counted that had to give up their place. So the sum of all
sets never goes down.
"""

from __future__ import annotations

from heapq import heapreplace
from typing import Generic, TypeVar

from prometheus_client import Counter, Histogram

LONGEST_LABEL = 64
MOST_LABEL_SETS = 1000
OTHER = "other"


class BoundedCounter(Counter):
    """A counter that knows when it was last used; see :class:`Bounded`."""

    last_use = 0

    def fold(self, forgotten: BoundedCounter) -> None:
        """Take over what ``forgotten`` has counted."""
        self.inc(forgotten._value.get())


class BoundedHistogram(Histogram):
    """A histogram that knows when it was last used; see :class:`Bounded`."""

    last_use = 0

    def fold(self, forgotten: BoundedHistogram) -> None:
        """Take over what ``forgotten`` has observed, bucket by bucket."""
        self._sum.inc(forgotten._sum.get())
        for mine, theirs in zip(self._buckets, forgotten._buckets, strict=True):
            mine.inc(theirs.get())


M = TypeVar("M", BoundedCounter, BoundedHistogram)


class Bounded(Generic[M]):
    """
    A metric with a bound on its label sets, and each set's child at one look-up.

    When all places are taken, a new set gets that of the one that was not used for the
    longest time; what this one has counted is then part of ``other``.
    """

    def __init__(self, metric: M, labels: int, *, most_sets: int = MOST_LABEL_SETS) -> None:
        self._metric: M = metric
        self._most_sets = most_sets
        self._other = (OTHER,) * labels
        self._children: dict[tuple[str, ...], M] = {}
        self._uses = 0
        # (a former last use, label values) of every child but ``other``. Only when a place
        # is needed are the ones in front brought up to date: a use costs no order.
        self._queue: list[tuple[int, tuple[str, ...]]] = []

    def of(self, *values: str) -> M:
        """The child of these label values; it is used at once."""
        child = self._children.get(values)
        if child is None:
            child = self._admitted(tuple(map(label, values)))
        self._uses = child.last_use = self._uses + 1
        return child

    def _admitted(self, values: tuple[str, ...]) -> M:
        child = self._children.get(values)
        if child is None:
            child = self._metric.labels(*values)
            if values != self._other:
                self._give_place(values)
            self._children[values] = child
        return child

    def _give_place(self, values: tuple[str, ...]) -> None:
        newest = (self._uses + 1, values)
        if len(self._queue) < self._most_sets - 1:
            self._queue.append(newest)  # still in order: the smallest is in front
            return
        while True:
            last_use, oldest = self._queue[0]
            child = self._children[oldest]
            if child.last_use == last_use:
                break
            heapreplace(self._queue, (child.last_use, oldest))
        heapreplace(self._queue, newest)
        self._forget(oldest, child)

    def _forget(self, values: tuple[str, ...], child: M) -> None:
        """Make what a set has counted part of ``other``."""
        self._admitted(self._other).fold(child)
        self._metric.remove(*values)
        del self._children[values]


def label(value: str) -> str:
    """``value`` as a label may have it: cut, and without what would fail every scrape."""
    # A lone surrogate, which JSON can bring, would fail every scrape from then on.
    return value[:LONGEST_LABEL].encode("utf-8", "replace").decode("utf-8")
