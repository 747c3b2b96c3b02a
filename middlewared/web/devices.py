"""
The routes on which apps register and unregister themselves.

A registration is confirmed only when it is committed, and only for an app that has a section
in the configuration.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from middlewared.clock import WallClock
from middlewared.devices.interface import DeviceRegistry
from middlewared.model import Device, Platform
from middlewared.web import fields
from middlewared.web.authentication import Authentication, CredentialUse, require_owner
from middlewared.web.endpoint import Endpoint, Serve
from middlewared.web.replies import NotFound, Reply
from middlewared.web.request import Request
from middlewared.web.settings import WebSettings


class DeviceEndpoints:
    """
    :param notify_lost: called with a replaced device and the one that replaced it.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        wall: WallClock,
        devices: DeviceRegistry,
        credentials: Authentication,
        notify_lost: Callable[[Device, Device], None],
    ) -> None:
        self._wall = wall
        self._devices = devices
        self._credentials = credentials
        self._notify_lost = notify_lost

    def endpoints(self) -> list[Endpoint]:
        """One for each platform."""
        return [
            Endpoint(
                f"{platform.value}-device",
                f"/api/{platform.value}-device",
                {b"POST": self._serve_register(platform), b"DELETE": self._serve_delete(platform)},
            )
            for platform in Platform
        ]

    def _serve_register(self, platform: Platform) -> Serve:
        async def register(request: Request) -> Reply:
            account = await self._credentials.account(request, CredentialUse.REGISTRATION)
            settings = request.settings
            device = fields.device(request.fields(), platform, settings, self._wall())
            require_owner(account, device.sip_user_id)
            if (device.app, platform) not in settings.known_apps:
                raise NotFound("no such app on this platform")
            return await self._register(device, settings)

        return register

    async def _register(self, device: Device, settings: WebSettings) -> Reply:
        exclusive = (device.app, device.platform) not in settings.many_accounts
        registered = await self._devices.register(device, exclusive=exclusive)
        for removed in registered.removed:
            self._log.info(
                "device of {sip_user_id} removed: its phone now has account {present}",
                sip_user_id=removed.sip_user_id,
                present=device.sip_user_id,
            )
        if registered.replaced is None:
            return Reply(201)
        self._notify_lost(registered.replaced, device)
        return Reply(200)

    def _serve_delete(self, platform: Platform) -> Serve:
        async def delete(request: Request) -> Reply:
            account = await self._credentials.account(request, CredentialUse.REGISTRATION)
            device = fields.device_id(request.fields(), request.settings)
            require_owner(account, device.sip_user_id)
            if not await self._devices.delete(
                device.sip_user_id, platform, device.app, device.token
            ):
                raise NotFound("no such device")
            return Reply(200)

        return delete
