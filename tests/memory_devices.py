"""
A device registry in memory, for tests of other rooms. It fulfils the registry's contract.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed

from middlewared.devices.interface import DeviceCounts, DeviceFilter, Page, Registered, is_silent
from middlewared.devices.queries import identity
from middlewared.devices.silent_streaks import continue_streak, merge_wakeups
from middlewared.model import Device, Platform, ResponseRecord, SipUserId, Wakeup


class MemoryDevices:
    """
    Implements :class:`middlewared.devices.interface.DeviceRegistry`.

    :ivar failure: when set, every method raises it.
    :ivar gate: look-ups wait until it has fired.
    """

    def __init__(self, *devices: Device) -> None:
        self._devices = {device.sip_user_id: device for device in devices}
        self.responses: list[ResponseRecord] = []
        self.failure: Exception | None = None
        self.gate: Deferred[None] = succeed(None)
        self.up: bool | None = None

    def put(self, device: Device) -> None:
        self._devices[device.sip_user_id] = device

    def response_log(self) -> list[tuple[str, float, bool, str]]:
        """The logged responses, as :class:`.DeviceRegistryContract` reads them."""
        return [
            (each.platform.value, each.roundtrip_seconds, each.available, _iso(each.answered_at))
            for each in self.responses
        ]

    def get(self, sip_user_id: SipUserId) -> Device | None:
        return self._devices.get(sip_user_id)

    async def start(self) -> None:
        await self.ping()

    async def stop(self) -> None:
        """Nothing to do."""

    async def ping(self) -> None:
        self.up = self.failure is None
        self._fail()

    async def find(
        self,
        sip_user_id: SipUserId,
        *,
        quickly: bool = False,
    ) -> Device | None:
        self._fail()
        if not self.gate.called:
            await self.gate
        return self.get(sip_user_id)

    async def register(self, device: Device, *, exclusive: bool = False) -> Registered:
        self._fail()
        replaced = self.get(device.sip_user_id)
        self.put(continue_streak(device, replaced))
        if not exclusive:
            return Registered(replaced)
        removed = [each for each in self._devices.values() if _same_phone(each, device)]
        for each in removed:
            del self._devices[each.sip_user_id]
        return Registered(replaced, removed)

    async def delete(
        self, sip_user_id: SipUserId, platform: Platform, app: str, token: str
    ) -> bool:
        self._fail()
        if self._same(Device(sip_user_id, platform, app, token)) is None:
            return False
        del self._devices[sip_user_id]
        return True

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        self._fail()
        stored = self._same(device)
        if stored is None:
            return False
        if registered_before is not None and stored.registered_at > registered_before:
            return False
        del self._devices[stored.sip_user_id]
        return True

    async def replace_token(self, device: Device, new_token: str) -> bool:
        return self._change(device, token=new_token)

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        return self._change(device, sandbox=sandbox)

    async def touch(self, sip_user_id: SipUserId, seen_at: float) -> bool:
        self._fail()
        device = self.get(sip_user_id)
        if device is None:
            return False
        self.put(attrs.evolve(device, last_seen=seen_at))
        return True

    async def page(
        self,
        after: SipUserId | None = None,
        limit: int = 1000,
        matching: DeviceFilter | None = None,
    ) -> Page:
        self._fail()
        known: list[Any] = list(self._devices)
        accounts = sorted(each for each in known if after is None or each > after)[:limit]
        devices = [self._devices[account] for account in accounts]
        matched = [each for each in devices if self._matches(each, matching or DeviceFilter())]
        return Page(matched, accounts[-1] if accounts else None)

    async def shares_phone(self, device: Device) -> bool:
        self._fail()
        return any(_same_phone(device, each) for each in self._devices.values())

    async def count(self, silent_calls: int) -> DeviceCounts:
        self._fail()
        devices = self._devices.values()
        silent = sum(is_silent(device, silent_calls) for device in devices)
        return DeviceCounts(Counter((device.app, device.platform) for device in devices), silent)

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        self._fail()
        self.responses.extend(records)

    async def log_wakeups(self, wakeups: Sequence[Wakeup]) -> None:
        self._fail()
        for streak in merge_wakeups(wakeups):
            device = self._same(streak.device)
            if device is not None:
                begun = device.silent_streak if streak.answered_at is None else 0
                answered = [at for at in (device.last_answered, streak.answered_at) if at]
                last = max(answered, default=None)
                self._change(device, silent_streak=begun + streak.missed, last_answered=last)

    def _same(self, device: Device) -> Device | None:
        stored = self.get(device.sip_user_id)
        return stored if stored is not None and identity(stored) == identity(device) else None

    def _change(self, device: Device, /, **changes: object) -> bool:
        self._fail()
        stored = self._same(device)
        if stored is None:
            return False
        self.put(attrs.evolve(stored, **changes))  # type: ignore[arg-type]
        return True

    def _matches(self, device: Device, matching: DeviceFilter) -> bool:
        since = matching.unseen_since
        return (
            device.silent_streak >= matching.silent_streak
            and (since is None or max(device.last_seen, device.last_answered or 0) < since)
            and (not matching.shared or any(_same_phone(device, e) for e in self._devices.values()))
        )

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def _iso(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _same_phone(one: Device, other: Device) -> bool:
    """Whether two devices are on the same phone."""
    same = (one.platform, one.app, one.installation)
    same_phone = same == (other.platform, other.app, other.installation)
    return same_phone and one.sip_user_id != other.sip_user_id
