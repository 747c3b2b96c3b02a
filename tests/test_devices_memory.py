"""The registry that other rooms' tests use keeps the registry's contract."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial.unittest import TestCase

from middlewared.devices.interface import DeviceRegistry
from tests.contracts.devices import DeviceRegistryContract
from tests.memory_devices import MemoryDevices


class MemoryDevicesTests(DeviceRegistryContract, TestCase):
    """Both members are the same dictionary."""

    def setUp(self) -> None:
        self.devices = MemoryDevices()
        self.here = self.there = self.devices

    async def response_log(self) -> list[tuple[str, float, bool, str]]:
        return [
            (
                record.platform.value,
                record.roundtrip_seconds,
                record.available,
                datetime.fromtimestamp(record.answered_at, UTC)
                .isoformat(timespec="milliseconds")
                .replace("+00:00", "Z"),
            )
            for record in self.devices.responses
        ]

    async def start_another(self) -> DeviceRegistry:
        return self.devices
