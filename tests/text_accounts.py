"""
A registry whose accounts are texts, for tests that know numbers: each number has a text that is
ordered like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from middlewared.devices.interface import (
    DeviceCounts,
    DeviceFilter,
    DeviceRegistry,
    Page,
    Registered,
)
from middlewared.model import Device, Platform, ResponseRecord, SipUserId, Wakeup


def text_of(number: SipUserId) -> str:
    """The account in the registry."""
    assert isinstance(number, int)
    return f"{number:020d}@pbx:example"


def number_of(text: SipUserId) -> int:
    """The account in the test."""
    assert isinstance(text, str), text
    return int(text.partition("@")[0])


class NumberedAccounts:
    """Implements :class:`middlewared.devices.interface.DeviceRegistry` over a text registry."""

    def __init__(self, devices: DeviceRegistry) -> None:
        self._devices = devices
        self.start, self.stop, self.ping = devices.start, devices.stop, devices.ping

    @property
    def up(self) -> bool | None:
        return self._devices.up

    async def find(self, sip_user_id: SipUserId, *, quickly: bool = False) -> Device | None:
        return _numbered(await self._devices.find(text_of(sip_user_id), quickly=quickly))

    async def register(self, device: Device, *, exclusive: bool = False) -> Registered:
        done = await self._devices.register(_texted(device), exclusive=exclusive)
        return Registered(_numbered(done.replaced), [_some(each) for each in done.removed])

    async def delete(
        self, sip_user_id: SipUserId, platform: Platform, app: str, token: str
    ) -> bool:
        return await self._devices.delete(text_of(sip_user_id), platform, app, token)

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        return await self._devices.remove_dead(_texted(device), registered_before)

    async def replace_token(self, device: Device, new_token: str) -> bool:
        return await self._devices.replace_token(_texted(device), new_token)

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        return await self._devices.set_sandbox(_texted(device), sandbox)

    async def touch(self, sip_user_id: SipUserId, seen_at: float) -> bool:
        return await self._devices.touch(text_of(sip_user_id), seen_at)

    async def page(
        self,
        after: SipUserId | None = None,
        limit: int = 1000,
        matching: DeviceFilter | None = None,
    ) -> Page:
        page = await self._devices.page(after and text_of(after), limit, matching)
        last = None if page.last is None else number_of(page.last)
        return Page([_some(each) for each in page.devices], last)

    async def shares_phone(self, device: Device) -> bool:
        return await self._devices.shares_phone(_texted(device))

    async def count(self, silent_calls: int) -> DeviceCounts:
        return await self._devices.count(silent_calls)

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        await self._devices.log_responses(records)

    async def log_wakeups(self, wakeups: Sequence[Wakeup]) -> None:
        texted = [attrs.evolve(each, device=_texted(each.device)) for each in wakeups]
        await self._devices.log_wakeups(texted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._devices, name)


def _texted(device: Device) -> Device:
    return attrs.evolve(device, sip_user_id=text_of(device.sip_user_id))


def _some(device: Device) -> Device:
    return attrs.evolve(device, sip_user_id=number_of(device.sip_user_id))


def _numbered(device: Device | None) -> Device | None:
    return None if device is None else _some(device)
