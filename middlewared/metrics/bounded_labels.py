"""
Metrics with a bound on their label sets.

Label values from outside cannot make memory or a scrape grow without bound: each is cut at
``LONGEST_LABEL`` characters, and a metric has at most ``MOST_LABEL_SETS`` label sets. One of
them, ``other``, takes over the counts of evicted sets, so the sum of all sets never decreases.
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

    def fold(self, evicted: BoundedCounter) -> None:
        """Add what ``evicted`` has counted."""
        self.inc(evicted._value.get())


class BoundedHistogram(Histogram):
    """A histogram that knows when it was last used; see :class:`Bounded`."""

    last_use = 0

    def fold(self, evicted: BoundedHistogram) -> None:
        """Add what ``evicted`` has observed, bucket by bucket."""
        self._sum.inc(evicted._sum.get())
        for mine, theirs in zip(self._buckets, evicted._buckets, strict=True):
            mine.inc(theirs.get())


M = TypeVar("M", BoundedCounter, BoundedHistogram)


class Bounded(Generic[M]):
    """
    A metric with a bound on its label sets; the child of a set takes one look-up.

    When it is full, a new set replaces the least recently used one, whose counts are added
    to ``other``.
    """

    def __init__(self, metric: M, labels: int, *, most_sets: int = MOST_LABEL_SETS) -> None:
        self._metric: M = metric
        self._most_sets = most_sets
        self._other = (OTHER,) * labels
        self._children: dict[tuple[str, ...], M] = {}
        self._uses = 0
        # (an earlier last use, label values) of every child but ``other``. Entries at the front
        # are updated only when a set is evicted, so that a use costs no reordering.
        self._queue: list[tuple[int, tuple[str, ...]]] = []

    def of(self, *values: str) -> M:
        """The child for these label values, which counts as used now."""
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
                self._enqueue(values)
            self._children[values] = child
        return child

    def _enqueue(self, values: tuple[str, ...]) -> None:
        """Add a set, which evicts the least recently used one when the metric is full."""
        newest = (self._uses + 1, values)
        if len(self._queue) < self._most_sets - 1:
            self._queue.append(newest)  # still in order: the oldest is at the front
            return
        while True:
            last_use, oldest = self._queue[0]
            child = self._children[oldest]
            if child.last_use == last_use:
                break
            heapreplace(self._queue, (child.last_use, oldest))
        heapreplace(self._queue, newest)
        self._evict(oldest, child)

    def _evict(self, values: tuple[str, ...], child: M) -> None:
        """Remove a set and add its counts to ``other``."""
        self._admitted(self._other).fold(child)
        self._metric.remove(*values)
        del self._children[values]


def label(value: str) -> str:
    """``value`` as a label: cut, and without characters that would break every scrape."""
    # A lone surrogate, which JSON may contain, would break every scrape from then on.
    return value[:LONGEST_LABEL].encode("utf-8", "replace").decode("utf-8")
