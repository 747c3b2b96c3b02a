"""
Gauges: read from the parts of the daemon at each scrape.

To add one: a source in :class:`Sources`, which ``service/components.py`` fills in, and a family
in :class:`Gauges`. Describe it in docs/metrics.md and CHANGELOG.md; its test is in
tests/test_metrics.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from twisted.logger import Logger

from middlewared.metrics.bounded_labels import MOST_LABEL_SETS, label
from middlewared.model import Platform


@attrs.frozen
class Sources:
    """
    What the gauges read at each scrape, in the reactor's thread, so it must be fast.

    ``apns_connections`` and ``provider_connections``: by app, environment and state.
    ``credential_expiry``: in epoch seconds. ``silent_devices``: None: not known now.
    ``config_reload``: whether the last one was accepted, and when the configuration in use was
    read, in epoch seconds.
    """

    waiting: Callable[[], int] = lambda: 0
    apns_connections: Callable[[], Mapping[tuple[str, str, str], int]] = dict
    provider_connections: Callable[[], Mapping[tuple[str, str, str], int]] = dict
    credential_expiry: Callable[[], Mapping[tuple[str, Platform], float]] = dict
    dependencies: Callable[[], Mapping[str, bool]] = dict
    devices: Callable[[], Mapping[tuple[str, Platform], int]] = dict
    silent_devices: Callable[[], int | None] = lambda: None
    token_removals_paused: Callable[[], Mapping[tuple[str, Platform], bool]] = dict
    config_reload: Callable[[], tuple[bool, float]] = lambda: (True, 0.0)
    kamailios: Callable[[], Mapping[str, bool]] = dict


class Gauges(Collector):
    """Reads the sources. One that fails is logged and left out of this scrape."""

    log = Logger()

    def __init__(self, sources: Callable[[], Sources]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[GaugeMetricFamily]:
        sources = self._sources()
        yield from self._read(
            "middlewared_calls_waiting",
            "Calls that wait for their phone at this daemon",
            (),
            lambda: {(): sources.waiting()},
        )
        yield from self._read(
            "middlewared_apns_connections",
            "Connections to Apple",
            ("app", "environment", "state"),
            sources.apns_connections,
        )
        yield from self._read(
            "middlewared_provider_connections",
            "Connections to Apple and Google",
            ("app", "environment", "state"),
            sources.provider_connections,
        )
        yield from self._read(
            "middlewared_credential_expiry_timestamp_seconds",
            "When a provider's credential expires",
            ("app", "platform"),
            lambda: _by_platform(sources.credential_expiry()),
        )
        yield from self._read(
            "middlewared_dependency_up",
            "Whether a dependency of the daemon responds",
            ("dependency",),
            lambda: {(name,): up for name, up in sources.dependencies().items()},
        )
        yield from self._read(
            "middlewared_devices",
            "Devices registered in the database, counted every 20 s or less often",
            ("app", "platform"),
            lambda: _by_platform(sources.devices()),
        )
        yield from self._read(
            "middlewared_silent_devices",
            "Devices that did not answer their last [calls] silent_calls calls",
            (),
            lambda: {} if (silent := sources.silent_devices()) is None else {(): silent},
        )
        yield from self._read(
            "middlewared_token_removals_paused",
            "Whether removing devices with dead tokens is paused, as too many die at once",
            ("app", "platform"),
            lambda: _by_platform(sources.token_removals_paused()),
        )
        yield from self._read(
            "middlewared_config_reload_success",
            "Whether the last reload of the configuration was accepted",
            (),
            lambda: {(): sources.config_reload()[0]},
        )
        yield from self._read(
            "middlewared_config_reload_timestamp_seconds",
            "When the configuration in use was read",
            (),
            lambda: {(): sources.config_reload()[1]},
        )
        yield from self._read(
            "middlewared_kamailio_connected",
            "Whether the evapi of a Kamailio is connected",
            ("kamailio",),
            lambda: {(name,): up for name, up in sources.kamailios().items()},
        )

    def _read(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[Any, float]],
    ) -> Iterator[GaugeMetricFamily]:
        try:
            found = read()
        except Exception:
            self.log.failure("cannot read the metric {name}", name=name)
            return
        family = GaugeMetricFamily(name, help_text, labels=labels)
        cut = {tuple(map(label, values)): value for values, value in found.items()}
        for values, value in islice(cut.items(), MOST_LABEL_SETS):
            family.add_metric(values, value)
        yield family


def _by_platform(found: Mapping[tuple[str, Platform], float]) -> Mapping[Any, float]:
    """By app and platform, as labels."""
    return {(app, platform.value): value for (app, platform), value in found.items()}
