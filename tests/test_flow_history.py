"""What a real daemon keeps of calls and devices, read from its database."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from middlewared.config import read_config
from middlewared.history.interface import CallSearch, DeviceEvent, KeptCall
from middlewared.quoting import fingerprint
from middlewared.service.storage import choose_storage
from middlewared.simulator.google_errors import legacy_error
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import GooglePush
from tests.daemons import PORTS, Answered
from tests.servers.postgres import shared_server
from tests.test_cli_commands import CommandTestCase

ACCOUNT = "123456789"
TOKEN = "a-push-token-that-no-one-may-see"
APP = "com.example"
KEY = "0123456789abcdef0123456789abcdef"


class HistoryFlowCase(CommandTestCase):
    """A daemon with a registered phone, whose answers the test sends."""

    database = "sqlite:middlewared.sqlite3"
    history = ""

    def setUp(self) -> None:
        super().setUp()
        self.pushes: list[GooglePush] = []
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self.pushes.append)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))

    async def start(self) -> None:
        await self.google.start()
        self.daemon = await self.start_daemon(self.config_text())
        config = read_config(self.directory / "middlewared.ini", {})
        self.storage = choose_storage(config, reactor=reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.storage.devices.stop()))
        await self.storage.devices.start()
        self.assertEqual((await self.register()).status, 201)

    def config_text(self) -> str:
        return (
            f"{PORTS}[accounts]\nbackend = open\n[database]\nurl = {self.database}\n"
            "[calls]\nroundtrip_wait_ms = 1500\nresend_interval_ms = 500\n"
            f"[history]\n{self.history}\n"
            f"[app:{APP}:gcm]\napi_key = key\nurl = {self.google.url}/gcm/send\n"
        )

    async def register(self, account: str = ACCOUNT, token: str = TOKEN, **more: str) -> Answered:
        return await self.post(
            self.daemon.url("/api/gcm-device/"), sip_user_id=account, token=token, app=APP, **more
        )

    def place(self, call_id: str = "", account: str = ACCOUNT) -> Deferred[Answered]:
        """The PBX places a call."""
        placed = self.post(
            self.daemon.url("/api/incoming-call/"),
            sip_user_id=account,
            phonenumber="+31612345678",
            caller_id="Ann",
            call_id=call_id,
        )
        return Deferred.fromCoroutine(placed)

    async def answer(self, key: str, available: str = "true") -> int:
        answered = await self.post(
            self.daemon.url("/api/call-response/"),
            unique_key=key,
            message_start_time="1700000000.0",
            available=available,
        )
        return answered.status

    async def report(self, route: str, account: str = ACCOUNT, **fields: str) -> None:
        reported = await self.post(self.daemon.url(f"/api/{route}/"), sip_user_id=account, **fields)
        self.assertEqual(reported.status, 200)

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await deferLater(reactor, 0.01)

    async def logged(self, text: str, number: int = 1) -> None:
        """Wait until the daemon's log has ``text`` so many times."""
        await self.until(lambda: self.daemon.log.count(text) >= number)

    async def pushed(self, number: int = 1) -> str:
        """Wait for the pushes of the call; its key."""
        await self.until(lambda: len(self.pushes) >= number)
        return str(self.pushes[-1].data["unique_key"])

    async def kept(self, complete: Callable[[KeptCall], Any] = bool, **wanted: Any) -> KeptCall:
        """The newest call that matches, once it is kept and complete."""
        while True:
            page = await self.storage.history.search(CallSearch(**wanted))
            if page.calls and complete(page.calls[0]):
                return page.calls[0]
            await deferLater(reactor, 0.05)

    async def events(self, number: int, account: str = ACCOUNT) -> Sequence[DeviceEvent]:
        """The events of the account's devices, once there are so many."""
        while True:
            events = await self.storage.history.device_events(account)
            if len(events) >= number:
                return events
            await deferLater(reactor, 0.05)


class HistoryFlowTests(HistoryFlowCase):
    """One daemon with a SQLite file."""

    async def test_answered_call(self) -> None:
        """All of its facts, of the caller three digits; no token and no name."""
        await self.start()
        placed = self.place(KEY)
        key = await self.pushed()
        self.assertEqual(await self.answer(key), 202)
        self.assertEqual((await placed).header("X-Outcome"), "answered")
        call = await self.kept(unique_key=KEY)
        record = call.record
        self.assertEqual(
            (record.call_id, record.sip_user_id, record.app, record.platform, record.outcome),
            (KEY, ACCOUNT, APP, "gcm", "answered"),
        )
        self.assertEqual((record.phonenumber, record.caller_id), ("678", ""))
        self.assertEqual(record.token, fingerprint(TOKEN))
        steps = [name for name, _ in record.step_times]
        self.assertEqual(steps[:2] + steps[-2:], ["device", "sent", "answer", "replied"])
        (push,) = record.pushes
        self.assertEqual((push.attempt, push.verdict, push.uncertain), (1, "accepted", False))
        self.assertTrue(push.provider_id)
        (answer,) = call.answers
        self.assertTrue(answer.available and answer.decided)
        self.assertIn("took the call after", call.verdict)
        self.assertTrue(call.daemon.endswith(f":{self.daemon.pid}"))
        self.assertNotIn(TOKEN, repr(call))

    async def test_every_answer(self) -> None:
        """A refusal that did not decide, repeats, and a late answer with how late it was."""
        await self.start()
        placed = self.place("one")
        key = await self.pushed(2)
        self.assertEqual(await self.answer(key, "false"), 202)
        self.assertEqual(await self.answer(key), 202)
        self.assertEqual(await self.answer(key), 202)
        self.assertEqual((await placed).header("X-Outcome"), "answered")
        call = await self.kept(lambda call: len(call.answers) == 3, call_id="one")
        self.assertEqual(
            [(each.available, each.decided) for each in call.answers],
            [(False, False), (True, True), (True, False)],
        )
        self.assertEqual((await self.place("two")).header("X-Outcome"), "timeout")
        self.assertEqual(await self.answer(await self.pushed(4), "false"), 404)
        late = await self.kept(lambda call: call.answers, call_id="two")
        (answer,) = late.answers
        self.assertEqual((answer.available, answer.decided), (False, False))
        assert answer.late_milliseconds is not None
        self.assertGreater(answer.late_milliseconds, 0.0)
        self.assertIn("too late", late.verdict)

    async def test_repeats_and_a_hang_up(self) -> None:
        """A repeated request joins its call; a PBX that gives up ends it."""
        await self.start()
        first, second = self.place("one"), self.place("one")
        self.assertEqual(await self.answer(await self.pushed()), 202)
        await first
        await second
        call = await self.kept(lambda call: call.joined, call_id="one")
        self.assertEqual((len(call.joined), len(call.answers)), (1, 1))
        gone = self.place("two")
        await self.pushed(2)
        gone.addErrback(lambda _: None)
        gone.cancel()
        call = await self.kept(call_id="two")
        self.assertEqual(call.record.outcome, "hung-up")
        self.assertEqual([push.verdict for push in call.record.pushes], ["accepted"])
        self.assertIn("The caller gave up", call.verdict)

    async def test_reports(self) -> None:
        """The account's own are attached, another one's are not."""
        await self.start()
        placed = self.place(KEY)
        self.assertEqual(await self.answer(await self.pushed()), 202)
        await placed
        await self.register("987654321", "another-token")
        more = {"middleware_unique_key": KEY, "failed_reason": "forged"}
        await self.report("log-metrics", "987654321", **more)
        await self.report("hangup-reason", "987654321", unique_key=KEY, reason="forged")
        await self.report("hangup-reason", unique_key=KEY, reason="busy")
        more["failed_reason"] = "DECLINED"
        await self.report("log-metrics", network="4G", **more)
        call = await self.kept(lambda call: len(call.reports) >= 2, unique_key=KEY)
        self.assertEqual(
            [(each.kind, dict(each.fields)) for each in call.reports],
            [
                ("hangup-reason", {"reason": "busy"}),
                ("log-metrics", {"failed_reason": "DECLINED", "network": "4G"}),
            ],
        )
        self.assertIn("the call then failed: 'DECLINED'", call.verdict)

    async def test_calls_whose_phone_was_not_woken(self) -> None:
        """No device, do not disturb, and a dead token."""
        await self.start()
        await self.place("none", "100000000")
        call = await self.kept(call_id="none")
        self.assertEqual((call.record.app, call.record.platform), ("", "none"))
        self.assertIn("No phone is registered", call.verdict)
        await self.register(dnd="true")
        await self.place("dnd")
        call = await self.kept(call_id="dnd")
        self.assertEqual((call.record.app, call.record.platform), (APP, "gcm"))
        self.assertIn("do not disturb", call.verdict)
        await self.register()
        self.google.scripts.for_token(TOKEN, legacy_error("NotRegistered"))
        await self.place("dead")
        call = await self.kept(call_id="dead")
        self.assertEqual(call.record.outcome, "token-dead")
        self.assertIn("push token is no longer valid ('NotRegistered')", call.verdict)

    async def test_device_events(self) -> None:
        """Each change with its reason, by fingerprints; repeats that change nothing are none."""
        await self.start()
        await self.register()
        await self.register(token="other-token:1")
        await self.events(3)
        self.google.scripts.for_token("other-token:1", legacy_error("MismatchSenderId"))
        await self.place("suspect")
        await self.register("987654321", "other-token:2")
        events = await self.events(5)
        self.assertEqual(
            [(each.event, each.why) for each in events],
            [
                ("removed", "other-account"),
                ("token-suspect", ""),
                ("lost-account-notice", ""),
                ("replaced", "app"),
                ("registered", ""),
            ],
        )
        self.assertEqual(events[4].token, fingerprint(TOKEN))
        self.assertEqual(events[3].reason, f"before: token {fingerprint(TOKEN)}")
        self.assertEqual((events[2].token, events[2].reason), (events[4].token, "accepted"))
        self.assertEqual(events[1].reason, "MismatchSenderId")
        self.google.scripts.for_token("other-token:2", legacy_error("NotRegistered"))
        await self.place("dead", "987654321")
        events = await self.events(2, "987654321")
        self.assertEqual((events[0].why, events[0].reason), ("token-dead", "NotRegistered"))
        self.assertNotIn("other-token", repr(events))

    async def test_reload_switches_the_history_off_and_on(self) -> None:
        """Nothing of the time in between is kept, and what was kept is deleted."""
        await self.start()
        await self.place("before", "100000000")
        await self.kept(call_id="before")
        for days in ("0", "14"):
            self.history = f"days = {days}"
            self.write_config(self.config_text())
            reloaded = self.daemon.log.count("configuration reloaded")
            self.daemon.signal(signal.SIGHUP)
            await self.logged("configuration reloaded", reloaded + 1)
            await self.place(f"days-{days}", "100000000")
            await self.logged(f"call_id=days-{days}")
        await self.kept(call_id="days-14")
        page = await self.storage.history.search(CallSearch(sip_user_id="100000000"))
        self.assertNotIn("days-0", [call.record.call_id for call in page.calls])

    async def test_calls_that_end_with_the_daemon_are_kept(self) -> None:
        """The stop writes what is queued."""
        await self.start()
        placed = self.place("last")
        await self.pushed()
        await self.daemon.stop()
        await placed
        self.assertEqual((await self.kept(call_id="last")).record.outcome, "timeout")


class HistoryOfPbxTests(HistoryFlowCase):
    """A PBX with a section of its own, and an app that answers by registering."""

    account = ACCOUNT
    accounts = ""

    def config_text(self) -> str:
        text = super().config_text().replace("[calls]", "[calls]\nanswer_by_registration = yes")
        text = text.replace("[accounts]", f"[accounts]\n{self.accounts}")
        return f"{text}[pbx:office]\nnetworks = 127.0.0.0/8\n"

    async def register(self, account: str = "", token: str = TOKEN, **more: str) -> Answered:
        return await super().register(account or self.account, token, **more)

    async def test_answer_by_registration(self) -> None:
        """It is the answer of the call, and the app's own is another."""
        await self.start()
        placed = self.place("one", self.account)
        key = await self.pushed()
        registered = self.daemon.url("/api/registration/")
        self.assertEqual((await self.post(registered, sip_user_id=self.account)).status, 200)
        self.assertEqual((await placed).header("X-Outcome"), "answered")
        self.assertEqual(await self.answer(key), 202)
        call = await self.kept(lambda call: len(call.answers) == 2, sip_user_id=self.account)
        self.assertEqual((call.record.pbx, call.record.sip_user_id), ("office", self.account))
        self.assertEqual(
            [(each.available, each.decided) for each in call.answers],
            [(True, True), (True, False)],
        )
        self.assertIn("The phone was woken and took the call", call.verdict)
        (event,) = await self.events(1, self.account)
        self.assertEqual((event.event, event.sip_user_id), ("registered", self.account))

    async def test_cancelled_call(self) -> None:
        """Its caller gave up, and its PBX cancelled it."""
        await self.start()
        placed = self.place("one", self.account)
        await self.pushed()
        query = urlencode({"sip_user_id": self.account, "call_id": "one"})
        url = f"{self.daemon.url('/api/incoming-call/')}?{query}"
        self.assertEqual((await self._answered(self.client.delete(url))).status, 200)
        self.assertEqual((await placed).header("X-Outcome"), "cancelled")
        call = await self.kept(call_id="one")
        self.assertEqual((call.record.outcome, call.record.pbx), ("cancelled", "office"))
        self.assertIn("the PBX cancelled the call", call.verdict)


class HistoryOfTextAccountsTests(HistoryOfPbxTests):
    """The same where accounts are texts."""

    account = "100@pbx.example"
    accounts = "sip_user_id_pattern = [0-9]+@pbx\\.example"


class HistoryFlowOnPostgresTests(HistoryFlowTests):
    """The same with PostgreSQL."""

    def setUp(self) -> None:
        super().setUp()
        self.database = shared_server().url(shared_server().database_for(self))
