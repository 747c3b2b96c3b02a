"""
A device registry in memory, for tests of other rooms. It passes the registry's contract.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred, succeed

from middlewared.model import Device, Platform, ResponseRecord


class MemoryDevices:
    """
    Implements :class:`middlewared.devices.interface.DeviceRegistry`.

    :ivar failure: when set, every method raises it.
    :ivar gate: keeps look-ups waiting until it has fired.
    """

    def __init__(self, *devices: Device) -> None:
        self._devices = {device.sip_user_id: device for device in devices}
        self.responses: list[ResponseRecord] = []
        self.failure: Exception | None = None
        self.gate: Deferred[None] = succeed(None)

    def put(self, device: Device) -> None:
        self._devices[device.sip_user_id] = device

    def get(self, sip_user_id: int) -> Device | None:
        return self._devices.get(sip_user_id)

    async def find(self, sip_user_id: int) -> Device | None:
        self._fail()
        if not self.gate.called:
            await self.gate
        return self.get(sip_user_id)

    async def register(self, device: Device) -> Device | None:
        self._fail()
        replaced = self.get(device.sip_user_id)
        self.put(device)
        return replaced

    async def delete(self, sip_user_id: int, platform: Platform, app: str, token: str) -> bool:
        self._fail()
        device = self._with_token(sip_user_id, token)
        if device is None or (device.platform, device.app) != (platform, app):
            return False
        del self._devices[sip_user_id]
        return True

    async def remove_dead(
        self, sip_user_id: int, token: str, registered_before: float | None
    ) -> bool:
        self._fail()
        device = self._with_token(sip_user_id, token)
        if device is None:
            return False
        if registered_before is not None and device.registered_at > registered_before:
            return False
        del self._devices[sip_user_id]
        return True

    async def replace_token(self, sip_user_id: int, token: str, new_token: str) -> bool:
        return self._change(sip_user_id, token, token=new_token)

    async def set_sandbox(self, sip_user_id: int, token: str, sandbox: bool) -> bool:
        return self._change(sip_user_id, token, sandbox=sandbox)

    async def touch(self, sip_user_id: int, seen_at: float) -> bool:
        self._fail()
        device = self.get(sip_user_id)
        if device is None:
            return False
        self.put(attrs.evolve(device, last_seen=seen_at))
        return True

    async def list(self, after: int = 0, limit: int = 1000) -> Sequence[Device]:
        self._fail()
        accounts = sorted(account for account in self._devices if account > after)
        return [self._devices[account] for account in accounts[:limit]]

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        self._fail()
        self.responses.extend(records)

    async def ping(self) -> None:
        self._fail()

    def _with_token(self, sip_user_id: int, token: str) -> Device | None:
        device = self.get(sip_user_id)
        return device if device is not None and device.token == token else None

    def _change(self, sip_user_id: int, token: str, /, **changes: str | bool) -> bool:
        self._fail()
        device = self._with_token(sip_user_id, token)
        if device is None:
            return False
        self.put(attrs.evolve(device, **changes))  # type: ignore[arg-type]
        return True

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure
