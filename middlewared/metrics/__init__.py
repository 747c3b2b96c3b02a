"""
What Prometheus reads: counters and histograms of what happened, gauges of how it stands.

Each room knows only the Protocol of what it counts; :class:`Metrics` implements them all.
"""

from middlewared.metrics.bounded import Bounded, BoundedCounter, BoundedHistogram
from middlewared.metrics.counted import Metrics
from middlewared.metrics.gauges import Sources

__all__ = ["Bounded", "BoundedCounter", "BoundedHistogram", "Metrics", "Sources"]
