"""Which devices are notified that an account has moved, and how often."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.model import Device, Platform
from middlewared.push.interface import (
    Accepted,
    NoticePush,
    Push,
    PushProvider,
    PushResult,
    Route,
    Temporary,
)
from middlewared.push.lost_account_notices import (
    LOST_ACCOUNT_TEXT,
    MAX_AT_ONCE,
    MAX_ATTEMPTS,
    LostAccountNotices,
)
from tests.recording import NotRecording

ANDROID = Device(123456789, Platform.ANDROID, "com.example.app", "old")
IPHONE = attrs.evolve(ANDROID, platform=Platform.APNS, remote_notification_token="alert")


class Provider(PushProvider):
    """Gives the result that the test chose."""

    def __init__(self, result: PushResult | Deferred[PushResult]) -> None:
        self.result = result
        self.pushes: list[Push] = []

    async def send(self, push: Push) -> PushResult:
        self.pushes.append(push)
        result = self.result
        return await result if isinstance(result, Deferred) else result


class NoticeTests(SynchronousTestCase):
    """One provider for all apps."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.background = Background()
        self.use(Provider(Accepted()))
        self.notices = LostAccountNotices(
            clock=self.clock,
            routes=self,
            background=self.background,
            recorder=NotRecording(),
        )

    def use(self, provider: Provider, *, wanted: bool = True) -> None:
        self.provider = provider
        self.route: Route | None = Route(provider=provider, lost_account_notice=wanted)

    def find(self, app: str, platform: Platform) -> Route | None:
        return self.route

    def lose(self, device: Device, **present: str) -> None:
        self.notices.notify(device, attrs.evolve(device, token="new", **present))  # type: ignore

    def test_other_token_is_notified(self) -> None:
        """The device that lost the account, with the words that apps know."""
        self.lose(ANDROID)
        self.assertEqual(
            self.provider.pushes, [NoticePush(ANDROID, LOST_ACCOUNT_TEXT, deadline=60.0)]
        )

    def test_same_token_is_not_notified(self) -> None:
        """It registered again."""
        self.notices.notify(ANDROID, ANDROID)
        self.assertEqual(self.provider.pushes, [])

    def test_same_installation_is_not_notified(self) -> None:
        """Its token was renewed, or it now registers only its Firebase installation ID."""
        for before, now, platform in (
            ("fid:1", "fid:2", Platform.ANDROID),
            ("fid:1", "fid", Platform.ANDROID),
            ("fid", "fid:1", Platform.ANDROID),
            ("fid:1", "fid:2", Platform.GCM),
        ):
            lost = attrs.evolve(ANDROID, token=before)
            self.notices.notify(lost, attrs.evolve(ANDROID, token=now, platform=platform))
            self.assertEqual(self.provider.pushes, [])
        self.notices.notify(lost, attrs.evolve(ANDROID, token="fid2:1"))
        self.assertEqual(len(self.provider.pushes), 1)

    def test_iphone_needs_an_alert_token_of_its_own(self) -> None:
        """None known: silence. The same one: the VoIP token was renewed."""
        self.lose(attrs.evolve(IPHONE, remote_notification_token=""))
        self.lose(IPHONE)
        self.assertEqual(self.provider.pushes, [])
        self.lose(IPHONE, remote_notification_token="other")
        self.assertEqual(len(self.provider.pushes), 1)

    def test_switched_off(self) -> None:
        """lost_account_notice = no, or an app that is not configured any more."""
        self.use(self.provider, wanted=False)
        self.lose(ANDROID)
        self.route = None
        self.lose(ANDROID)
        self.assertEqual(self.provider.pushes, [])

    def test_temporary_trouble_is_tried_again_but_not_for_ever(self) -> None:
        """With growing pauses; nothing is left afterwards."""
        self.use(Provider(Temporary("down")))
        self.lose(ANDROID)
        self.clock.pump([1.0] * 60)
        self.assertEqual(len(self.provider.pushes), MAX_ATTEMPTS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reload_between_two_tries(self) -> None:
        """The next try takes the provider of that moment."""
        self.use(Provider(Temporary("down")))
        self.lose(ANDROID)
        self.use(Provider(Accepted()))
        self.clock.pump([1.0] * 3)
        self.assertEqual(len(self.provider.pushes), 1)

    def test_many_at_once_are_bounded(self) -> None:
        """Those above the bound are dropped; an end makes room."""
        slow: Deferred[PushResult] = Deferred()
        self.use(Provider(slow))
        for _ in range(MAX_AT_ONCE + 10):
            self.lose(ANDROID)
        self.assertEqual(len(self.provider.pushes), MAX_AT_ONCE)

    def test_end_of_the_daemon(self) -> None:
        """A notice that waits for its next try is given up."""
        self.use(Provider(Temporary("down")))
        self.lose(ANDROID)
        self.background.cancel()
        self.successResultOf(Deferred.fromCoroutine(self.background.finish()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
