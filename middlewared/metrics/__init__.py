"""
The Prometheus metrics: counters and histograms of events, gauges of the current state.

To add a counter or histogram: make it in :mod:`.events` and count it there in a method of
:class:`Metrics`, which the room where the event happens calls. To add a gauge: a source and a
family in :mod:`.gauges`; ``service.components`` fills the source in. Then describe it in
docs/metrics.md, without which tests/test_operations_files.py fails.
"""

from middlewared.metrics.events import Metrics
from middlewared.metrics.gauges import Sources

__all__ = ["Metrics", "Sources"]
