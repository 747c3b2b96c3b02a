"""What the daemon keeps in its database: devices, their streaks, responses, the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from middlewared.clock import wall_clock
from middlewared.config import Config
from middlewared.database.batched_writes import BatchedWrites
from middlewared.devices.cached_registry import CachedRegistry
from middlewared.devices.device_counter import DeviceCounter
from middlewared.history.history_purge import HistoryPurge
from middlewared.history.history_writer import HistoryWriter
from middlewared.model import Platform, ResponseRecord, Wakeup
from middlewared.service.daemon_name import daemon_name
from middlewared.service.dependency_watch import DependencyWatch
from middlewared.service.room_settings import cache_settings
from middlewared.service.storage import choose_storage, retention


class RecordKeeping:
    """
    The database and what is written to it; made, started and stopped by the composition root.

    :param config: gives the current configuration.
    :param keeps_dead: whether devices of an app and platform are kept although their tokens
        are reported dead.
    :param lost: notified how many rows of the history were dropped.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        config: Callable[[], Config],
        keeps_dead: Callable[[str, Platform], bool],
        lost: Callable[[int], None],
    ) -> None:
        self.storage = storage = choose_storage(config(), reactor=reactor)
        self.heartbeats = storage.devices
        self.devices = CachedRegistry(
            devices=storage.devices,
            clock=reactor,
            settings=cache_settings(config()),
            keeps_dead=keeps_dead,
        )
        self.watch = DependencyWatch(clock=reactor, pings={"database": self.devices.ping})
        self.responses: BatchedWrites[ResponseRecord] = BatchedWrites(
            name="response log", write=self.devices.log_responses, clock=reactor
        )
        self.wakeups: BatchedWrites[Wakeup] = BatchedWrites(
            name="silent streaks", write=self.devices.log_wakeups, clock=reactor
        )
        self.counts = DeviceCounter(
            count=self.devices.count,
            clock=reactor,
            silent_calls=lambda: config().calls.silent_calls,
        )
        self.history = storage.history
        self.recorder = HistoryWriter(
            store=self.history,
            clock=reactor,
            wall=wall_clock,
            daemon=daemon_name(),
            settings=retention(config()),
            lost=lost,
        )
        self.purge = HistoryPurge(store=self.history, clock=reactor)
