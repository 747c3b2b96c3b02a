"""
The Prometheus metrics: counters and histograms of events, gauges of the present state.

Each room knows only the Protocol of its own metrics; :class:`Metrics` implements them all.
"""

from middlewared.metrics.bounded_labels import Bounded, BoundedCounter, BoundedHistogram
from middlewared.metrics.events import Metrics
from middlewared.metrics.gauges import Sources

__all__ = ["Bounded", "BoundedCounter", "BoundedHistogram", "Metrics", "Sources"]
