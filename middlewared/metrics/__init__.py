"""
The Prometheus metrics: counters and histograms of events, gauges of the current state.

To add one: see :mod:`.events` for a counter or histogram, :mod:`.gauges` for a gauge.
"""

from middlewared.metrics.events import Metrics
from middlewared.metrics.gauges import Sources

__all__ = ["Metrics", "Sources"]
