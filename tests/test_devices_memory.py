"""The registry that other rooms' tests use fulfils the registry's contract."""

from __future__ import annotations

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
        return self.devices.response_log()

    def another(self) -> DeviceRegistry:
        return self.devices
