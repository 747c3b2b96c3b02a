"""Whole calls through a real daemon: PBX, Apple, Google, accounts and phones of all generations."""

from __future__ import annotations

import base64
import signal
import time
from functools import partial

import attrs
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers

from middlewared.demo.stage import ANDROID_APP, IOS_APP, RELAY_APP, Stage
from middlewared.simulator.accounts_server import basic
from middlewared.simulator.apple.faults import Reject, rejection
from middlewared.simulator.generations import (
    ANDROID_6,
    FLUTTER_ANDROID,
    FLUTTER_IOS,
    GCM_3,
    GENERATIONS,
    IOS_6,
    Generation,
)
from middlewared.simulator.google_errors import fcm_error
from middlewared.simulator.pbx import PBX, CallResult
from middlewared.simulator.phone import Phone, Reaction
from middlewared.simulator.record import AnyPush, ReceivedPush
from middlewared.simulator.scripts import Delay, Deliver
from tests.daemons import DaemonTestCase
from tests.waiting import until

APPS = {"apns": IOS_APP, "android": ANDROID_APP, "gcm": RELAY_APP}
FIRST_ACCOUNT = 200_000_001
SILENT = Reaction(available=None)


class FlowTestCase(DaemonTestCase):
    """A stage with a daemon on it."""

    calls = "roundtrip_wait_ms = 3000\nresend_interval_ms = 500\n"

    async def start(self, sections: str = "") -> None:
        """Set the stage; ``sections`` are further ones of the configuration."""
        self.phones: dict[str, Phone] = {}
        self.pushed: dict[str, Deferred[AnyPush]] = {}
        self.stage = Stage(
            reactor=self.spawner,
            folder=self.directory,
            listener=self._pushed,
            calls=self.calls,
            sections=sections,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self._strike()))
        await self.stage.start()
        self.pbx = PBX(http=self.client, base_url=self.stage.url, seconds=time.time)

    async def _strike(self) -> None:
        for phone in self.phones.values():
            await phone.stop()
        await self.stage.stop()

    def _pushed(self, push: AnyPush) -> None:
        phone = self.phones.get(push.token)
        if phone is not None:
            phone.receive(push)
        waiter = self.pushed.pop(push.token, None)
        if waiter is not None:
            waiter.callback(push)

    def push_to(self, phone: Phone) -> Deferred[AnyPush]:
        """The next push to ``phone``."""
        waiter = self.pushed[phone.token] = Deferred()
        return waiter

    async def phone(
        self,
        generation: Generation,
        *,
        number: int = 0,
        reaction: Reaction | None = None,
        token: str | None = None,
        **fields: object,
    ) -> Phone:
        """A registered phone; ``number`` counts accounts."""
        account = FIRST_ACCOUNT + number
        token = token or f"{account:064x}"
        phone = self.phones[token] = Phone(
            reactor=reactor,
            base_url=self.stage.url,
            generation=generation,
            sip_user_id=account,
            token=token,
            app=APPS[generation.platform],
            authorization=basic(str(account), "secret"),
            reaction=reaction or Reaction(),
            fields=fields,
        )
        self.assertIn(await phone.register(), (200, 201))
        return phone

    def call(self, number: int = 0, call_id: str = "") -> Deferred[CallResult]:
        """The PBX has a call for account ``number``."""
        return self.pbx.place(FIRST_ACCOUNT + number, caller_id="Älice", call_id=call_id)

    async def until_metric(self, line: str) -> None:
        """Scrape until ``line`` is there."""
        url = self.stage.daemon.url("/metrics", "metrics")
        while line not in (await self.get(url)).text:
            await deferLater(reactor, 0.02)


def has_reply(phone: Phone) -> bool:
    """Whether a phone has a reply to its answer; the PBX has its own before that."""
    return bool(phone.answers)


class GenerationTests(FlowTestCase):
    """Every generation of the deployed apps."""

    async def test_every_generation_is_woken_answers_and_leaves(self) -> None:
        """Registration, push, answer and unregistration in the form of each generation."""
        await self.start()
        for number, generation in enumerate(GENERATIONS):
            phone = await self.phone(generation, number=number)
            result = await self.call(number)
            self.assertEqual(
                (generation.name, phone.complaints, result.outcome),
                (generation.name, [], "answered"),
            )
            self.assertTrue(result.acknowledged)
            await until(partial(has_reply, phone))
            self.assertEqual([answer.status for answer in phone.answers], [202])
            self.assertEqual(await phone.unregister(), 200, generation.name)
            self.assertEqual((await self.call(number)).outcome, "no-device", generation.name)

    async def test_scientific_start_time_and_repeated_answers(self) -> None:
        """Legacy FCM turned the start time into 1.5E9; a repeat of an answer is harmless."""
        await self.start()
        reaction = Reaction(scientific=True, repeats=2)
        phone = await self.phone(GCM_3, reaction=reaction)
        self.assertTrue((await self.call()).acknowledged)
        await until(lambda: len(phone.answers) == 3)
        self.assertEqual([answer.status for answer in phone.answers], [202, 202, 202])


class CallTests(FlowTestCase):
    """The rules of a call, over real connections."""

    async def test_steps_are_reported(self) -> None:
        """Server-Timing has the steps, and the metrics count the call and its ACK."""
        await self.start()
        await self.phone(IOS_6, reaction=Reaction(0.05))
        result = await self.call()
        self.assertLessEqual({"device", "push", "answer", "total"}, result.server_timing_ms.keys())
        app = APPS["apns"]
        labels = f'app="{app}",outcome="answered",platform="apns"'
        await self.until_metric(f"middlewared_calls_total{{{labels}}} 1.0")
        metrics = (await self.get(self.stage.daemon.url("/metrics", "metrics"))).text
        self.assertIn("middlewared_answer_to_ack_seconds_count 1.0", metrics)
        woken = f'middlewared_wakeup_seconds_count{{app="{app}",platform="apns"}} 1.0'
        self.assertIn(woken, metrics)

    async def test_busy_and_silent_phones(self) -> None:
        """unavailable at once; timeout after the wait, with as many pushes as configured."""
        await self.start()
        await self.phone(ANDROID_6, number=0, reaction=Reaction(available=False))
        silent = await self.phone(ANDROID_6, number=1, reaction=SILENT)
        busy_call, silent_call = await gatherResults([self.call(0), self.call(1)])
        self.assertEqual((busy_call.outcome, busy_call.body), ("unavailable", "status=NAK"))
        self.assertEqual((silent_call.outcome, silent_call.body), ("timeout", "status=NAK"))
        attempts = [push.data["attempt"] for push in silent.pushes]
        self.assertEqual(attempts, ["1", "2", "3", "4", "5"])

    async def test_native_android_refuses_repeats(self) -> None:
        """The first answer decides: a "no" to a repeated push does not overwrite it."""
        await self.start()
        await self.phone(ANDROID_6, reaction=Reaction(0.6))
        self.assertEqual((await self.call()).outcome, "answered")

    async def test_pbx_repeats_and_hangs_up(self) -> None:
        """Two requests, one push; the first connection may close, the second is answered."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        pushed = self.push_to(phone)
        first = self.call(call_id="same")
        push = await pushed
        second = self.call(call_id="same")
        await self.until_metric("middlewared_calls_waiting 2.0")
        first.cancel()
        await self.failed_with(first, CancelledError)
        await self.until_metric("middlewared_calls_waiting 1.0")
        self.assertEqual(await phone.answer(push.data, available=True), 202)
        self.assertEqual((await second).outcome, "answered")
        labels = f'app="{APPS["android"]}",outcome="answered",platform="android"'
        counted = f"middlewared_calls_total{{{labels}}} 1.0"
        await self.until_metric(counted)

    async def test_pbx_gone(self) -> None:
        """After the PBX closed its connection the phone's answer is 404, within a second."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        pushed = self.push_to(phone)
        held = self.call()
        push = await pushed
        held.cancel()
        await self.failed_with(held, CancelledError)
        await self.until_metric("middlewared_calls_waiting 0.0")
        self.assertEqual(await phone.answer(push.data, available=True), 404)

    async def test_caller_gives_up(self) -> None:
        """All requests of the call end as cancelled, no more pushes are sent, an answer is 404."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        pushed = self.push_to(phone)
        held = [self.call(call_id="same"), self.call(call_id="same")]
        push = await pushed
        self.assertEqual((await self.pbx.cancel(FIRST_ACCOUNT + 1, "same")).outcome, "no-call")
        cancelled = await self.pbx.cancel(FIRST_ACCOUNT, "same")
        self.assertEqual((cancelled.status, cancelled.outcome), (200, "cancelled"))
        for result in await gatherResults(held):
            ended = (result.status, result.body, result.outcome)
            self.assertEqual(ended, (200, "status=NAK", "cancelled"))
        self.assertEqual(await phone.answer(push.data, available=True), 404)
        again = await self.pbx.cancel(FIRST_ACCOUNT, "same")
        self.assertEqual((again.status, again.body, again.outcome), (404, "status=NAK", "no-call"))
        self.assertEqual(len(phone.pushes), 1)
        labels = f'app="{APPS["android"]}",outcome="cancelled",platform="android"'
        await self.until_metric(f"middlewared_calls_total{{{labels}}} 1.0")
        self.assertIn("call cancelled (joined)", self.stage.daemon.log)

    async def test_caller_gives_up_too_late(self) -> None:
        """A call that was answered stays answered, and can be placed again."""
        await self.start()
        await self.phone(ANDROID_6)
        self.assertEqual((await self.call(call_id="same")).outcome, "answered")
        self.assertEqual((await self.pbx.cancel(FIRST_ACCOUNT, "same")).outcome, "no-call")
        self.assertEqual((await self.call(call_id="same")).outcome, "answered")

    async def test_caller_gives_up_and_calls_again(self) -> None:
        """The second call has the same UUID as its key, and its phone rings."""
        await self.start()
        phone = await self.phone(IOS_6, reaction=SILENT)
        uuid = "0f8fad5b-d9cb-469f-a165-70867728950e"
        for _ in range(3):
            pushed = self.push_to(phone)
            held = self.call(call_id=uuid)
            await pushed
            self.assertEqual((await self.pbx.cancel(FIRST_ACCOUNT, uuid)).outcome, "cancelled")
            self.assertEqual((await held).outcome, "cancelled")
        phone.reaction = Reaction()
        self.assertEqual((await self.call(call_id=uuid)).outcome, "answered")

    async def test_dead_tokens_are_removed(self) -> None:
        """Apple's 410 and Google's UNREGISTERED: a fast no, then no device."""
        await self.start()
        iphone = await self.phone(IOS_6, number=0)
        android = await self.phone(ANDROID_6, number=1)
        self.stage.apple.scripts.for_token(iphone.token, rejection("Unregistered"))
        self.stage.google.scripts.for_token(android.token, fcm_error("UNREGISTERED"))
        for number in (0, 1):
            self.assertEqual((await self.call(number)).outcome, "token-dead")
            self.assertEqual((await self.call(number)).outcome, "no-device")

    async def test_410_older_than_the_registration(self) -> None:
        """The app registered after the token was last seen dead: the device stays."""
        await self.start()
        iphone = await self.phone(IOS_6)
        before = int((time.time() - 3600) * 1000)
        self.stage.apple.scripts.for_token(iphone.token, Reject(410, "Unregistered", before))
        self.assertEqual((await self.call()).outcome, "token-dead")
        self.stage.apple.scripts.clear()
        self.assertEqual((await self.call()).outcome, "answered")

    async def test_wrong_environment_is_found_and_kept(self) -> None:
        """A sandbox token registered as "production" rings, the next time at the first attempt."""
        await self.start()
        iphone = await self.phone(IOS_6, reaction=Reaction(0.3))  # after the verdict is stored
        self.stage.apple.scripts.for_token(iphone.token, rejection("BadDeviceToken"))
        self.assertEqual((await self.call()).outcome, "answered")
        self.assertEqual((await self.call()).outcome, "answered")
        self.assertEqual(self.stage.apple.record.received_count, 1)
        self.assertEqual(self.stage.apple_sandbox.record.received_count, 2)

    async def test_lost_account_notices(self) -> None:
        """The device that lost its account is notified, an iPhone by an alert, never by VoIP."""
        await self.start()
        old_android = await self.phone(FLUTTER_ANDROID, token="old-android")
        notified = self.push_to(old_android)
        old_ios = await self.phone(
            FLUTTER_IOS, token="aa" * 32, remote_notification_token="bb" * 32
        )
        await notified
        self.phones["bb" * 32] = old_ios  # its alerts come to its other token
        alert = self.pushed["bb" * 32] = Deferred()
        await self.phone(FLUTTER_IOS, token="cc" * 32, remote_notification_token="dd" * 32)
        push = await alert
        self.assertIsInstance(push, ReceivedPush)
        sentence = "An other device has registered for the same account"
        self.assertTrue(old_android.notices[0].startswith(sentence), old_android.notices)
        self.assertTrue(old_ios.notices[0].startswith(sentence), old_ios.notices)
        self.assertEqual((old_android.complaints, old_ios.complaints), ([], []))

    async def test_accounts_are_asked(self) -> None:
        """401 only from the account API itself; another's account is 403."""
        await self.start()
        url = self.stage.url + "/api/android-device/"
        fields = {"sip_user_id": str(FIRST_ACCOUNT), "token": "t", "app": ANDROID_APP}
        token = base64.b64encode(f"{FIRST_ACCOUNT + 1}:secret".encode()).decode()
        for authorization, status in (
            (None, 401),
            ("Token unknown", 401),
            (f"Basic {token}", 403),
        ):
            headers = Headers({} if authorization is None else {"Authorization": [authorization]})
            response = await self.client.post(url, data=fields, headers=headers)
            await response.content()
            self.assertEqual(response.code, status, authorization)
        await self.stage.accounts.stop()
        response = await self.client.post(
            url, data=fields, headers=Headers({"Authorization": ["Token x"]})
        )
        await response.content()
        self.assertEqual(response.code, 503)
        self.assertTrue(response.headers.hasHeader("Retry-After"))

    async def failed_with(self, deferred: Deferred[CallResult], kind: type[Exception]) -> None:
        """Wait for a failure; treq wraps a cancelled request's in its own."""
        try:
            await deferred
        except Exception as error:
            reasons = [each.type for each in getattr(error, "reasons", [])]
            self.assertIn(kind, [type(error), *reasons])
        else:
            self.fail("no failure")


class ReloadTests(FlowTestCase):
    """SIGHUP while pushes are on their way."""

    async def test_new_certificate_during_a_call(self) -> None:
        """A push in flight gets its result, its call is answered; the next uses the new one."""
        await self.start()
        iphone = await self.phone(IOS_6)
        self.stage.apple.scripts.for_token(iphone.token, Deliver(), Delay(0.5))
        iphone.reaction = SILENT
        pushed = self.push_to(iphone)
        held = self.call()
        push = await pushed
        before = self.stage.apple.record.connection_count
        self.stage.write_config()
        self.stage.daemon.signal(signal.SIGHUP)
        await self.has_logged(self.stage.daemon, "configuration reloaded")
        self.assertEqual(await iphone.answer(push.payload, available=True), 202)  # type: ignore[union-attr]
        result = await held
        self.assertEqual(result.outcome, "answered")
        iphone.reaction = Reaction()
        self.stage.apple.scripts.clear()
        self.assertEqual((await self.call()).outcome, "answered")
        self.assertGreater(self.stage.apple.record.connection_count, before)
        self.assertNotIn("temporary", self.stage.daemon.log)


class KeyTests(FlowTestCase):
    """Which key a call has."""

    async def test_keys(self) -> None:
        """A UUID call_id is the key, another is vg_cid only; both apps get what they need."""
        await self.start()
        phone = await self.phone(IOS_6)
        uuid = "0f8fad5b-d9cb-469f-a165-70867728950e"
        await self.call(call_id=uuid)
        await self.call(call_id="1575988800.42")
        await self.call()
        first, second, third = (push.payload for push in phone.pushes)  # type: ignore[union-attr]
        self.assertEqual((first["unique_key"], first["vg_cid"]), (uuid, uuid))
        self.assertEqual(second["vg_cid"], "1575988800.42")
        self.assertRegex(second["unique_key"], r"\A[0-9a-f]{32}\Z")
        self.assertEqual(third["vg_cid"], third["unique_key"])
        self.assertEqual(attrs.asdict(phone.answers[0])["status"], 202)
