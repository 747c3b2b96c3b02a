"""
What apps tell about themselves: why a call ended, how it went, that they are alive.

The one invariant: a report never changes anything but ``last_seen`` and metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from middlewared.clock import WallClock
from middlewared.devices.interface import DeviceRegistry
from middlewared.model import Device
from middlewared.web import fields
from middlewared.web.authentication import Authentication, Use, require_owner
from middlewared.web.endpoint import Endpoint, fields_of
from middlewared.web.replies import NotFound, Reply
from middlewared.web.request import Request
from middlewared.web.settings import WebSettings


class ReportEndpoints:
    """
    :param report: given the account and all texts of a log-metrics report.
    :param hangup: given the device, the call's key and the reason it ended.
    :param settings: gives the present settings.
    """

    def __init__(
        self,
        *,
        wall: WallClock,
        devices: DeviceRegistry,
        credentials: Authentication,
        report: Callable[[int, Mapping[str, str]], None],
        hangup: Callable[[Device, str, str], None],
        settings: Callable[[], WebSettings],
    ) -> None:
        self._wall = wall
        self._devices = devices
        self._credentials = credentials
        self._report = report
        self._hangup = hangup
        self._settings = settings

    def endpoints(self) -> list[Endpoint]:
        """The three of them."""
        return [
            Endpoint("hangup-reason", "/api/hangup-reason", {b"POST": self._serve_hangup}),
            Endpoint("log-metrics", "/api/log-metrics", {b"POST": self._serve_report}),
            Endpoint("check-in", "/api/check-in", {b"POST": self._serve_check_in}),
        ]

    async def _serve_hangup(self, request: Request) -> Reply:
        account = await self._credentials.account(request, Use.REPORT)
        hangup = fields.hangup(fields_of(request), self._settings())
        require_owner(account, hangup.sip_user_id)
        device = await self._devices.find(hangup.sip_user_id)
        if device is None:
            raise NotFound("no such device")
        self._hangup(device, hangup.unique_key, hangup.reason)
        return Reply(200)

    async def _serve_report(self, request: Request) -> Reply:
        account = await self._credentials.account(request, Use.REPORT)
        raw = fields_of(request)
        sip_user_id, report = fields.sip_user_id(raw, self._settings()), fields.report(raw)
        require_owner(account, sip_user_id)
        self._report(sip_user_id, report)
        return Reply(200)

    async def _serve_check_in(self, request: Request) -> Reply:
        account = await self._credentials.account(request, Use.REPORT)
        sip_user_id = fields.sip_user_id(fields_of(request), self._settings())
        require_owner(account, sip_user_id)
        if not await self._devices.touch(sip_user_id, self._wall()):
            raise NotFound("no such device")
        return Reply(200)
