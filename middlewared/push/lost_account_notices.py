"""
Notifying a device that its account has moved to another phone.

A notice never delays or fails the registration that caused it.
"""

from __future__ import annotations

from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.backoff import backoff_s
from middlewared.clock import Clock
from middlewared.history.interface import DeviceEvent, Recorder
from middlewared.model import Device, Platform
from middlewared.push.interface import ConfigFault, NoticePush, PushResult, Routes, Temporary
from middlewared.quoting import word

# Flutter apps react only to a text that begins with exactly these words.
LOST_ACCOUNT_TEXT = (
    "An other device has registered for the same account. You won't be reachable on this device."
)
VALID_S = 60.0
MAX_ATTEMPTS = 4
FIRST_BACKOFF_S, MAX_BACKOFF_S = 2.0, 8.0
MAX_AT_ONCE = 1000


class LostAccountNotices:
    """Sends notices in the background, at most ``MAX_AT_ONCE``; those above it are dropped."""

    log = Logger()

    def __init__(
        self, *, clock: Clock, routes: Routes, background: Background, recorder: Recorder
    ) -> None:
        self._clock = clock
        self._routes = routes
        self._background = background
        self._recorder = recorder
        self._sending = 0

    def notify(self, lost: Device, current: Device) -> None:
        """
        Notify ``lost`` that its account has moved to ``current``, if that is another phone.

        If only the token was renewed, it is the same phone: on Android the installation is
        the same, on an iPhone the alert token.
        """
        if lost.installation == current.installation:
            return
        if lost.platform is Platform.APNS:
            alert_token = lost.remote_notification_token
            if not alert_token or alert_token == current.remote_notification_token:
                return
        route = self._routes.find(lost.app, lost.platform)
        if route is None or not route.lost_account_notice:
            return
        if self._sending >= MAX_AT_ONCE:
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
            app=word(lost.app),
            platform=lost.platform.value,
            result=result.label,
            reason=result.reason,
        )
        reason = f"{result.label} {result.reason}".rstrip()
        event = DeviceEvent.of(lost, "lost-account-notice", reason=reason)
        self._recorder.keep_device_event(event)

    async def _deliver(self, lost: Device) -> PushResult:
        """Send the notice, and again after a temporary failure while there is time."""
        notice = NoticePush(lost, LOST_ACCOUNT_TEXT, self._clock.seconds() + VALID_S)
        for attempt in range(1, MAX_ATTEMPTS):
            result = await self._try(notice)
            if not isinstance(result, Temporary):
                return result
            pause_s = backoff_s(attempt, first_s=FIRST_BACKOFF_S, longest_s=MAX_BACKOFF_S)
            pause_s = max(pause_s, result.retry_after_s or 0.0)
            await deferLater(self._clock, min(pause_s, VALID_S))  # type: ignore[arg-type]
        return await self._try(notice)

    async def _try(self, notice: NoticePush) -> PushResult:
        """Send it once, by the current route: a reload may have changed it."""
        route = self._routes.find(notice.device.app, notice.device.platform)
        return ConfigFault("app-removed") if route is None else await route.provider.send(notice)
