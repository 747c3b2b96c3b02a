"""
Registering a device, whether its app asked for it or a SIP registrar did.

A registration is confirmed only when it is committed.
"""

from __future__ import annotations

from collections.abc import Callable

from middlewared.devices.interface import DeviceRegistry
from middlewared.model import Device
from middlewared.web.settings import WebSettings


class DeviceRegistration:
    """
    :param notify_lost: called with a replaced device and the one that replaced it.
    """

    def __init__(
        self, *, devices: DeviceRegistry, notify_lost: Callable[[Device, Device], None]
    ) -> None:
        self._devices = devices
        self._notify_lost = notify_lost

    async def register(self, device: Device, settings: WebSettings) -> bool:
        """
        Make ``device`` the one of its account; returns whether the account had none.

        :raises DatabaseDown: it may not be registered.
        """
        exclusive = (device.app, device.platform) not in settings.many_accounts
        registered = await self._devices.register(device, exclusive=exclusive)
        if registered.replaced is None:
            return True
        self._notify_lost(registered.replaced, device)
        return False
