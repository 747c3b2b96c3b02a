"""
What operators may do: ring a phone, and remove a device.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

from middlewared.console.operator_calls import OperatorCall, OperatorCalls
from middlewared.console.sources import ConsoleSettings
from middlewared.devices.interface import DeviceRegistry
from middlewared.history.interface import DeviceEvent, Recorder
from middlewared.model import Device
from middlewared.quoting import fingerprint
from middlewared.web.replies import NotFound


@attrs.frozen(kw_only=True)
class OperatorActions:
    """The caller has validated that the user is an operator."""

    calls: OperatorCalls
    devices: DeviceRegistry
    recorder: Recorder
    settings: Callable[[], ConsoleSettings]

    def place(self, sip_user_id: str) -> tuple[OperatorCall, Deferred[None]]:
        """
        Place a test call; see :meth:`.operator_calls.OperatorCalls.place`.

        :raises NotFound: no account is written so.
        """
        account = self.settings().account(sip_user_id)
        if account is None:
            raise NotFound("no such account")
        return self.calls.place(account)

    async def remove(self, sip_user_id: str, only: str = "") -> Device | None:
        """
        Remove the device of an account.

        :param only: the fingerprint of the token of the device that is meant; "": any.
        :return: the one that was removed; None: there is no such device.
        :raises DatabaseDown: it is not known whether it was removed.
        """
        account = self.settings().account(sip_user_id)
        device = None if account is None else await self.devices.find(account)
        if device is None or (only and fingerprint(device.token) != only):
            return None
        if not await self.devices.delete(
            device.sip_user_id, device.platform, device.app, device.token
        ):
            return None
        self.recorder.keep_device_event(DeviceEvent.of(device, "removed", why="operator"))
        return device
