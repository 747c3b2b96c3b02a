"""The registry that other rooms' tests use keeps the registry's contract."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.contracts.devices import DeviceRegistryContract
from tests.memory_devices import MemoryDevices


class MemoryDevicesTests(DeviceRegistryContract, TestCase):
    """Both members are the same dictionary."""

    def setUp(self) -> None:
        self.here = self.there = MemoryDevices()
