"""
The route on which a PBX or SIP registrar reports that an account has registered there.

The registration answers the account's waiting calls, and its push parameters are a device.
"""

from __future__ import annotations

import attrs

from middlewared.calls.interface import Calls
from middlewared.clock import WallClock
from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import RendezvousDown
from middlewared.model import Device
from middlewared.web import fields
from middlewared.web.bodies import RawFields
from middlewared.web.device_registration import DeviceRegistration
from middlewared.web.endpoint import Endpoint
from middlewared.web.pbx_access import PbxAccess
from middlewared.web.replies import Reply, json_reply
from middlewared.web.request import Request
from middlewared.web.settings import WebSettings


@attrs.frozen(kw_only=True)
class RegistrationEndpoint:
    """The route and what it needs."""

    wall: WallClock
    calls: Calls
    pbxs: PbxAccess
    devices: DeviceRegistry
    registration: DeviceRegistration

    def endpoint(self) -> Endpoint:
        """The route."""
        return Endpoint("registration", "/api/registration", {b"POST": self._register})

    async def _register(self, request: Request) -> Reply:
        self.pbxs.identify(request)
        is_new, answered = await self.report(
            request.fields(), request.settings, request.received_at
        )
        return json_reply(201 if is_new else 200, {"answered": answered})

    async def report(
        self, raw: RawFields, settings: WebSettings, received_at: float
    ) -> tuple[bool, int]:
        """
        An account has registered, or left.

        :return: whether it has a device now and had none before; how many calls it answered.
        :raises BadRequest: a field is missing or wrong.
        :raises NotFound: its app is not configured.
        :raises ServiceDown: it cannot be stored, or it cannot be known whether a call waits.
        """
        given = fields.sip_registration(raw, settings)
        device = None
        if given.push is not None:
            device = given.push.device(given.sip_user_id, settings.push_apps, self.wall())
        if not given.expires:
            if device is not None:
                await self._unregister(device)
            return False, 0
        # First: a caller waits. What Redis does not know now is reported when all else is done.
        answered, down = 0, None
        try:
            answered = await self.calls.registered(given.sip_user_id, given.call_id, received_at)
        except RendezvousDown as error:
            down = error
        is_new = device is not None and await self.registration.register(
            await self._with_details(device), settings
        )
        if down is not None:
            raise down
        return is_new, answered

    async def _with_details(self, device: Device) -> Device:
        """``device`` with what its app registered itself, and a SIP contact does not have."""
        known = await self.devices.find(device.sip_user_id)
        if known is None or not known.is_same(device):
            return device
        remote = device.remote_notification_token or known.remote_notification_token
        return attrs.evolve(
            known,
            sandbox=device.sandbox,
            remote_notification_token=remote,
            registered_at=device.registered_at,
            last_seen=device.last_seen,
        )

    async def _unregister(self, device: Device) -> None:
        await self.devices.delete(device.sip_user_id, device.platform, device.app, device.token)
