"""
Devices cached in memory, for calls that come while the database is down.

The database is asked first, each time. A cached device is used only if the database fails or
keeps a call waiting, and no longer than the operator allows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import attrs

from middlewared.clock import Clock
from middlewared.devices.interface import (
    DeviceRegistry,
    Registered,
)
from middlewared.devices.silent_streaks import continue_streak
from middlewared.errors import DatabaseDown
from middlewared.model import Device, Platform, SipUserId

# About 1 KB each; those that were looked up last are kept.
MAX_DEVICES = 50_000


@attrs.frozen
class CacheSettings:
    """``keep_s``: how long a device may be served after the database returned it; 0: never."""

    keep_s: float


class CachedRegistry:
    """
    A :class:`~middlewared.devices.interface.DeviceRegistry` in front of another, which it
    starts and stops.

    :param devices: the registry in the database.
    :param keeps_dead: whether removing dead devices of an app and platform is paused.
    """

    def __init__(
        self,
        *,
        devices: DeviceRegistry,
        clock: Clock,
        settings: CacheSettings,
        keeps_dead: Callable[[str, Platform], bool] = lambda *_: False,
    ) -> None:
        self._devices = devices
        self._clock = clock
        self._keeps_dead = keeps_dead
        self._cached: OrderedDict[SipUserId, tuple[Device, float]] = OrderedDict()
        self.settings = settings
        # The rest is passed on unchanged.
        self.start, self.stop, self.ping = devices.start, devices.stop, devices.ping
        self.touch, self.page, self.count = devices.touch, devices.page, devices.count
        self.shares_phone = devices.shares_phone
        self.log_responses, self.log_wakeups = devices.log_responses, devices.log_wakeups

    def reconfigure(self, settings: CacheSettings) -> None:
        """Use ``settings`` from now on, for the devices that are cached already too."""
        self.settings = settings

    @property
    def up(self) -> bool | None:
        return self._devices.up

    async def find(self, sip_user_id: SipUserId, *, quickly: bool = False) -> Device | None:
        """The device in the database; if that is down, the cached one unless it is too old."""
        before = self._cached.get(sip_user_id)
        cached = self._recall(sip_user_id)
        quickly = quickly or cached is not None
        try:
            device = await self._devices.find(sip_user_id, quickly=quickly)
        except DatabaseDown:
            if cached is None:
                raise
            return cached
        # A registration or removal since the query began is newer than its result.
        if self._cached.get(sip_user_id) is before:
            self._forget(sip_user_id)
            if device is not None:
                self._remember(device)
        return device

    async def register(self, device: Device, *, exclusive: bool = False) -> Registered:
        registered = await self._devices.register(device, exclusive=exclusive)
        for removed in registered.removed:
            self._forget(removed.sip_user_id)
        self._remember(continue_streak(device, registered.replaced))
        return registered

    async def delete(
        self, sip_user_id: SipUserId, platform: Platform, app: str, token: str
    ) -> bool:
        done = await self._devices.delete(sip_user_id, platform, app, token)
        return self._changed(sip_user_id, done)

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        if self._keeps_dead(device.app, device.platform):
            return False
        done = await self._devices.remove_dead(device, registered_before)
        return self._changed(device.sip_user_id, done)

    async def replace_token(self, device: Device, new_token: str) -> bool:
        done = await self._devices.replace_token(device, new_token)
        return self._changed(device.sip_user_id, done)

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        done = await self._devices.set_sandbox(device, sandbox)
        return self._changed(device.sip_user_id, done)

    def _recall(self, sip_user_id: SipUserId) -> Device | None:
        device, cached_at = self._cached.get(sip_user_id, (None, 0.0))
        age_s = self._clock.seconds() - cached_at
        return device if age_s < self.settings.keep_s else None

    def _remember(self, device: Device) -> None:
        self._cached[device.sip_user_id] = device, self._clock.seconds()
        self._cached.move_to_end(device.sip_user_id)
        if len(self._cached) > MAX_DEVICES:
            self._cached.popitem(last=False)

    def _forget(self, sip_user_id: SipUserId) -> None:
        self._cached.pop(sip_user_id, None)

    def _changed(self, sip_user_id: SipUserId, done: bool) -> bool:
        """Forget a device that has changed; the next look-up caches it again."""
        if done:
            self._forget(sip_user_id)
        return done
