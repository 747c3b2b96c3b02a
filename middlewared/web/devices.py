"""
The routes on which apps register and unregister themselves.

An app is registered only if it has a section in the configuration.
"""

from __future__ import annotations

from middlewared.clock import WallClock
from middlewared.devices.interface import DeviceRegistry
from middlewared.model import Platform
from middlewared.web import fields
from middlewared.web.authentication import Authentication, CredentialUse, require_owner
from middlewared.web.device_registration import DeviceRegistration
from middlewared.web.endpoint import Endpoint, Serve
from middlewared.web.replies import NotFound, Reply
from middlewared.web.request import Request


class DeviceEndpoints:
    """The routes of all platforms, and what they need."""

    def __init__(
        self,
        *,
        wall: WallClock,
        devices: DeviceRegistry,
        credentials: Authentication,
        registration: DeviceRegistration,
    ) -> None:
        self._wall = wall
        self._devices = devices
        self._credentials = credentials
        self._registration = registration

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
            is_new = await self._registration.register(device, settings)
            return Reply(201 if is_new else 200)

        return register

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
