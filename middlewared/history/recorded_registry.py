"""
The device registry, with the events of devices recorded.
"""

from __future__ import annotations

from middlewared.devices.interface import DeviceRegistry, Registered
from middlewared.history.interface import DeviceEvent, Recorder
from middlewared.model import Device, Platform, SipUserId
from middlewared.quoting import fingerprint


class RecordedRegistry:
    """
    A :class:`~middlewared.devices.interface.DeviceRegistry` in front of another, for those who
    register and remove devices on behalf of an app.

    What a push finds out about a device is recorded by the calls room, which knows the reason.
    """

    def __init__(self, *, devices: DeviceRegistry, recorder: Recorder) -> None:
        self._devices = devices
        self._recorder = recorder
        # The rest is passed on unchanged, and so are look-ups.
        self.start, self.stop, self.ping = devices.start, devices.stop, devices.ping
        self.find, self.touch, self.page = devices.find, devices.touch, devices.page
        self.shares_phone = devices.shares_phone
        self.count, self.remove_dead = devices.count, devices.remove_dead
        self.replace_token, self.set_sandbox = devices.replace_token, devices.set_sandbox
        self.log_responses, self.log_wakeups = devices.log_responses, devices.log_wakeups

    @property
    def up(self) -> bool | None:
        return self._devices.up

    async def register(self, device: Device, *, exclusive: bool = False) -> Registered:
        registered = await self._devices.register(device, exclusive=exclusive)
        self._record(device, registered)
        return registered

    async def delete(
        self, sip_user_id: SipUserId, platform: Platform, app: str, token: str
    ) -> bool:
        done = await self._devices.delete(sip_user_id, platform, app, token)
        if done:
            removed = Device(sip_user_id, platform, app, token)
            self._recorder.keep_device_event(DeviceEvent.of(removed, "removed", why="app"))
        return done

    def _record(self, device: Device, registered: Registered) -> None:
        keep, before = self._recorder.keep_device_event, registered.replaced
        if before is None:
            keep(DeviceEvent.of(device, "registered", reason=_do_not_disturb(device)))
        elif _phone(before) != _phone(device):
            keep(DeviceEvent.of(device, "replaced", why="app", reason=_former(before, device)))
        elif before.dnd is not device.dnd:
            # Other repeats change nothing: apps register whenever they start.
            reason = _do_not_disturb(device) or "do not disturb off"
            keep(DeviceEvent.of(device, "registered", reason=reason))
        for removed in registered.removed:
            reason = f"its phone now has account {device.sip_user_id}"
            keep(DeviceEvent.of(removed, "removed", why="other-account", reason=reason))


def _do_not_disturb(device: Device) -> str:
    return "do not disturb on" if device.dnd else ""


def _former(before: Device, device: Device) -> str:
    """Which device was replaced, as far as it differs."""
    text = f"before: token {fingerprint(before.token)}"
    if (before.app, before.platform) != (device.app, device.platform):
        text += f" of {before.app} on {before.platform.value}"
    return text


def _phone(device: Device) -> tuple[Platform, str, str]:
    return device.platform, device.app, device.token
