"""
Notifying a device that its account has moved to another phone.

The one invariant: a notice never delays or fails the registration that caused it.
"""

from __future__ import annotations

import random

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.model import Device, Platform
from middlewared.push.interface import ConfigFault, NoticePush, PushResult, Routes, Temporary

# Flutter apps act only on a text that begins with these very words.
LOST_ACCOUNT_TEXT = (
    "An other device has registered for the same account. You won't be reachable on this device."
)
VALID_S = 60.0
TRIES = 4
FIRST_BACKOFF_S = 1.0
MOST_AT_ONCE = 1000


class LostAccountNotices:
    """Sends notices in the background, at most ``MOST_AT_ONCE``; those above it are dropped."""

    log = Logger()

    def __init__(self, *, clock: Clock, routes: Routes, background: Background) -> None:
        self._clock = clock
        self._routes = routes
        self._background = background
        self._sending = 0

    def notify(self, lost: Device, present: Device) -> None:
        """
        Notify ``lost`` that its account has moved to ``present``, if that is another phone.

        If only the token was renewed, it is the same phone: on Android the installation is
        the same, on an iPhone the alert token.
        """
        if lost.installation == present.installation:
            return
        if lost.platform is Platform.APNS:
            alert_token = lost.remote_notification_token
            if not alert_token or alert_token == present.remote_notification_token:
                return
        route = self._routes.find(lost.app, lost.platform)
        if route is None or not route.lost_account_notice:
            return
        if self._sending >= MOST_AT_ONCE:
            self.log.warn("too many lost-account notices: one dropped")
            return
        self._background.run(self._send(lost))

    async def _send(self, lost: Device) -> None:
        self._sending += 1
        try:
            result = await self._deliver(lost)
        finally:
            self._sending -= 1
        self.log.info(
            "lost-account notice for {sip_user_id} on {platform}: {result} {reason}",
            sip_user_id=lost.sip_user_id,
            platform=lost.platform.value,
            result=result.label,
            reason=result.reason,
        )

    async def _deliver(self, lost: Device) -> PushResult:
        """Send the notice, and again while the trouble is temporary and there is time."""
        notice = NoticePush(lost, LOST_ACCOUNT_TEXT, self._clock.seconds() + VALID_S)
        for tried in range(TRIES - 1):
            result = await self._try(notice)
            if not isinstance(result, Temporary):
                return result
            own = FIRST_BACKOFF_S * 2**tried * (1 + random.random())  # noqa: S311 (jitter)
            await self._pause(max(own, result.retry_after_s or 0.0))
        return await self._try(notice)

    async def _try(self, notice: NoticePush) -> PushResult:
        """Send it once, on the way of this moment: a reload may have changed it."""
        route = self._routes.find(notice.device.app, notice.device.platform)
        return ConfigFault("app-removed") if route is None else await route.provider.send(notice)

    async def _pause(self, seconds: float) -> None:
        pause: Deferred[None] = Deferred()
        timer = self._clock.callLater(min(seconds, VALID_S), pause.callback, None)
        try:
            await pause
        finally:
            if timer.active():
                timer.cancel()
