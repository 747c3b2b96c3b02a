"""
The routes on which apps report why a call ended, how it went, and that they are alive.

A report changes nothing but ``last_seen`` and metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from middlewared.clock import WallClock
from middlewared.devices.interface import DeviceRegistry
from middlewared.model import Device, SipUserId
from middlewared.web import fields
from middlewared.web.authentication import Authentication, CredentialUse, require_owner
from middlewared.web.endpoint import Endpoint
from middlewared.web.replies import NotFound, Reply
from middlewared.web.request import Request


class ReportEndpoints:
    """
    :param report: called with the account and all texts of a log-metrics report.
    :param hangup: called with the device, the call's key and the reason it ended.
    """

    def __init__(
        self,
        *,
        wall: WallClock,
        devices: DeviceRegistry,
        credentials: Authentication,
        report: Callable[[SipUserId, Mapping[str, str]], None],
        hangup: Callable[[Device, str, str], None],
    ) -> None:
        self._wall = wall
        self._devices = devices
        self._credentials = credentials
        self._report = report
        self._hangup = hangup

    def endpoints(self) -> list[Endpoint]:
        """One for each kind of report."""
        return [
            Endpoint("hangup-reason", "/api/hangup-reason", {b"POST": self._serve_hangup}),
            Endpoint("log-metrics", "/api/log-metrics", {b"POST": self._serve_report}),
            Endpoint("check-in", "/api/check-in", {b"POST": self._serve_check_in}),
        ]

    async def _serve_hangup(self, request: Request) -> Reply:
        account = await self._credentials.account(request, CredentialUse.REPORT)
        hangup = fields.hangup(request.fields(), request.settings)
        require_owner(account, hangup.sip_user_id)
        device = await self._devices.find(hangup.sip_user_id)
        if device is None:
            raise NotFound("no such device")
        self._hangup(device, hangup.unique_key, hangup.reason)
        return Reply(200)

    async def _serve_report(self, request: Request) -> Reply:
        account = await self._credentials.account(request, CredentialUse.REPORT)
        raw = request.fields()
        sip_user_id, report = fields.sip_user_id(raw, request.settings), fields.report(raw)
        require_owner(account, sip_user_id)
        self._report(sip_user_id, report)
        return Reply(200)

    async def _serve_check_in(self, request: Request) -> Reply:
        account = await self._credentials.account(request, CredentialUse.REPORT)
        sip_user_id = fields.sip_user_id(request.fields(), request.settings)
        require_owner(account, sip_user_id)
        if not await self._devices.touch(sip_user_id, self._wall()):
            raise NotFound("no such device")
        return Reply(200)
