"""
Devices kept in memory, for calls that come while the database is down.

The one invariant: the database is asked first, each time. What is remembered is used only
when it fails or keeps a call waiting, and never longer than the operator allows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred, TimeoutError

from middlewared.clock import Clock
from middlewared.devices.interface import Counts, DeviceRegistry, Page, Registered, Wanted
from middlewared.devices.streaks import continued
from middlewared.errors import DatabaseDown
from middlewared.model import Device, Platform, ResponseRecord, Wakeup
from middlewared.waiting import with_fair_timeout

# About 1 KB each; the ones that were looked up last are kept.
MAX_DEVICES = 50_000
# A database that answers at all does so in a few milliseconds. One that hangs would take
# its whole deadline from every call's wait.
PATIENCE_S = 0.2


@attrs.frozen
class CacheSettings:
    """``keep_s``: how long after the database gave it a device may be served; 0: never."""

    keep_s: float


class CachedDevices:
    """
    A :class:`~middlewared.devices.interface.DeviceRegistry` in front of another.

    :param keeps_dead: whether removing dead devices of an app and platform is paused.
    :ivar settings: may be replaced at run time.
    """

    def __init__(
        self,
        *,
        registry: DeviceRegistry,
        clock: Clock,
        settings: CacheSettings,
        keeps_dead: Callable[[str, Platform], bool] = lambda *_: False,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._keeps_dead = keeps_dead
        self._known: OrderedDict[int, tuple[Device, float]] = OrderedDict()
        self.settings = settings

    async def find(self, sip_user_id: int) -> Device | None:
        """As the database says; else the device it gave last, if that is not too old."""
        before = self._known.get(sip_user_id)
        known = self._recall(sip_user_id)
        if known is None:
            device = await self._registry.find(sip_user_id)
        else:
            asking = Deferred.fromCoroutine(self._registry.find(sip_user_id))
            try:
                device = await with_fair_timeout(asking, PATIENCE_S, self._clock)
            except (DatabaseDown, TimeoutError):
                return known
        # What was registered or removed since we asked is newer than the answer.
        if self._known.get(sip_user_id) is before:
            self._forget(sip_user_id)
            if device is not None:
                self._remember(device)
        return device

    async def register(self, device: Device, *, alone: bool = False) -> Registered:
        registered = await self._registry.register(device, alone=alone)
        for displaced in registered.displaced:
            self._forget(displaced.sip_user_id)
        self._remember(continued(device, registered.replaced))
        return registered

    async def delete(self, sip_user_id: int, platform: Platform, app: str, token: str) -> bool:
        done = await self._registry.delete(sip_user_id, platform, app, token)
        return self._changed(sip_user_id, done)

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        if self._keeps_dead(device.app, device.platform):
            return False
        done = await self._registry.remove_dead(device, registered_before)
        return self._changed(device.sip_user_id, done)

    async def replace_token(self, device: Device, new_token: str) -> bool:
        done = await self._registry.replace_token(device, new_token)
        return self._changed(device.sip_user_id, done)

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        done = await self._registry.set_sandbox(device, sandbox)
        return self._changed(device.sip_user_id, done)

    async def touch(self, sip_user_id: int, seen_at: float) -> bool:
        return await self._registry.touch(sip_user_id, seen_at)

    async def page(self, after: int = 0, limit: int = 1000, wanted: Wanted | None = None) -> Page:
        return await self._registry.page(after, limit, wanted)

    async def count(self, silent_calls: int) -> Counts:
        return await self._registry.count(silent_calls)

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        await self._registry.log_responses(records)

    async def log_wakeups(self, wakeups: Sequence[Wakeup]) -> None:
        await self._registry.log_wakeups(wakeups)

    async def ping(self) -> None:
        await self._registry.ping()

    def _recall(self, sip_user_id: int) -> Device | None:
        device, known_at = self._known.get(sip_user_id, (None, 0.0))
        age_s = self._clock.seconds() - known_at
        return device if age_s < self.settings.keep_s else None

    def _remember(self, device: Device) -> None:
        self._known[device.sip_user_id] = device, self._clock.seconds()
        self._known.move_to_end(device.sip_user_id)
        if len(self._known) > MAX_DEVICES:
            self._known.popitem(last=False)

    def _forget(self, sip_user_id: int) -> None:
        self._known.pop(sip_user_id, None)

    def _changed(self, sip_user_id: int, done: bool) -> bool:
        """What is remembered is not true any more; the next look-up tells what is."""
        if done:
            self._forget(sip_user_id)
        return done
