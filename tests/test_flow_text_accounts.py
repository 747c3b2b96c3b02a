"""Accounts that are texts, through real daemons: in routes, commands and stores."""

from __future__ import annotations

import json
import signal
from typing import Any
from urllib.parse import urlencode

import bcrypt
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.task import deferLater

from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import GooglePush
from tests.console import ADMIN, ConsoleClient, users_file
from tests.daemons import PORTS, Answered
from tests.fleet import FleetTestCase, Shared
from tests.servers.redis import shared_cluster
from tests.test_cli_commands import CommandTestCase, Ran

CLOCK: Any = reactor
PATTERN = r"[a-z0-9.:]+@pbx\.example"
ACCOUNT, COLON = "100@pbx.example", "a:b@pbx.example"


class FleetTextTests(FleetTestCase):
    """Three daemons at a Redis Cluster and PostgreSQL."""

    calls = "answer_by_registration = yes\n"
    accounts = f"sip_user_id_pattern = {PATTERN}\n"

    async def form(self, at: int, route: str, **fields: str) -> Answered:
        return await self.post(self.daemons[at].url(f"/api/{route}/"), **fields)

    def place(self, at: int, account: str, call_id: str) -> Deferred[Answered]:
        fields = {"sip_user_id": account, "phonenumber": "0123", "call_id": call_id}
        return Deferred.fromCoroutine(self.form(at, "incoming-call", **fields))

    async def test_a_call_at_several_daemons(self) -> None:
        """Registered at one, called at another, repeated, answered, cancelled at the third."""
        await self.start_fleet(Shared.of(shared_cluster()))
        for account in (ACCOUNT, COLON):
            fields = {"sip_user_id": account, "token": f"t-{account[0]}", "app": "com.example"}
            self.assertEqual((await self.form(0, "gcm-device", **fields)).status, 201)
        held = self.place(1, ACCOUNT, "c1")
        (push,) = await self.pushed(1)
        repeat = self.place(2, ACCOUNT, "c1")
        await self.until_health(2, waiting=1)
        self.assertEqual(await self.answer(0, push), 202)
        self.assert_acknowledged(await held, await repeat)

        held = self.place(1, ACCOUNT, "c2")
        await self.pushed(1)
        query = urlencode({"sip_user_id": ACCOUNT, "call_id": "c2"})
        url = self.daemons[2].url(f"/api/incoming-call/?{query}")
        self.assertEqual((await self._answered(self.client.delete(url))).status, 200)
        self.assertEqual((await held).header("X-Outcome"), "cancelled")

        held = self.place(1, ACCOUNT, "c3")
        await self.pushed(1)
        answered = 0
        while not answered:
            reply = await self.form(2, "registration", sip_user_id=ACCOUNT)
            answered = json.loads(reply.text)["answered"]
        self.assert_acknowledged(await held)

    async def test_accounts_and_call_ids_with_colons(self) -> None:
        """One account and call_id never look like others."""
        await self.start_fleet(Shared.of(shared_cluster()), daemons=2)
        fields = {"sip_user_id": COLON, "token": "t1", "app": "com.example"}
        await self.form(0, "gcm-device", **fields)
        held = self.place(0, COLON, "c@pbx.example:d")
        await self.pushed(1)
        other = await self.place(1, "a@pbx.example", "b@pbx.example:c@pbx.example:d")
        self.assertEqual(other.header("X-Outcome"), "no-device")
        self.assertFalse(held.called)
        await self.form(0, "registration", sip_user_id=COLON)
        self.assert_acknowledged(await held)


class OneDaemonCase(CommandTestCase):
    """SQLite, and passwords for texts."""

    backend = "htpasswd\nhtpasswd = passwords"
    pattern = PATTERN

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.pushes: DeferredQueue[GooglePush] = DeferredQueue()
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self.pushes.put)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))
        await self.google.start()
        hashed = bcrypt.hashpw(b"geheim", bcrypt.gensalt(4)).decode()
        (self.directory / "passwords").write_text(f"{ACCOUNT}:{hashed}\n")
        self.text = (
            f"{PORTS}[accounts]\nbackend = {self.backend}\n"
            f"sip_user_id_pattern = {self.pattern}\n[calls]\nroundtrip_wait_ms = 20000\n"
            f"[app:com.example:gcm]\napi_key = key\nurl = {self.google.url}/gcm/send\n"
        )
        self.daemon = await self.start_daemon(self.text)

    async def register(self, account: str, user: str = ACCOUNT) -> Answered:
        fields = {"sip_user_id": account, "token": "t1", "app": "com.example"}
        url = self.daemon.url("/api/gcm-device/")
        return await self._answered(self.client.post(url, data=fields, auth=(user, "geheim")))

    async def devices_command(self, *arguments: str) -> Ran:
        name, *more = arguments
        return await self.command("devices", name, "-c", "middlewared.ini", *more)


class OneDaemonTests(OneDaemonCase):
    """What apps, a PBX and an operator do."""

    async def test_registration_call_and_commands(self) -> None:
        """Whole texts that match only; everything shows them as they are."""
        self.assertEqual((await self.register(ACCOUNT)).status, 201)
        for wrong in ("101@pbx.example", "100@PBX.example"):
            self.assertIn((await self.register(wrong)).status, (400, 403))
        self.assertEqual((await self.register(ACCOUNT, "101@pbx.example")).status, 401)
        url = self.daemon.url("/api/incoming-call/")
        for wrong in ("123456789", f"x{ACCOUNT} ", "", f"{'1' * 117}@pbx.example"):
            refused = await self.post(url, sip_user_id=wrong, phonenumber="1")
            self.assertEqual((wrong, refused.status), (wrong, 400))
        call = self.post(url, sip_user_id=ACCOUNT, phonenumber="1", call_id="c1")
        held = Deferred.fromCoroutine(call)
        push = await self.pushes.get()
        names = ("unique_key", "message_start_time")
        answer = {name: str(push.data[name]) for name in names}
        answered = await self.post(self.daemon.url("/api/call-response/"), **answer)
        self.assertEqual((answered.status, (await held).text), (202, "status=ACK"))
        while f"sip_user_id={ACCOUNT} " not in self.daemon.log:
            await deferLater(CLOCK, 0.01)
        shown = await self.devices_command("show", "--json", ACCOUNT)
        self.assertEqual(json.loads(shown.out)["sip_user_id"], ACCOUNT)
        self.assertIn(ACCOUNT, (await self.devices_command("list")).out)
        missing = await self.devices_command("show", "101@pbx.example")
        self.assertEqual((missing.code, missing.err), (1, "101@pbx.example has no device\n"))
        wrong_text = await self.devices_command("delete", "123456789")
        self.assertEqual(wrong_text.code, 2)
        self.assertIn("'123456789' does not match sip_user_id_pattern", wrong_text.err)
        self.assertEqual((await self.devices_command("delete", ACCOUNT)).code, 0)


class TextOfDigitsTests(OneDaemonCase, ConsoleClient):
    """Accounts are texts, and one of them is ``100``."""

    backend = "open"
    pattern = "[0-9a-z@.]+"

    async def test_json_has_a_text(self) -> None:
        """In the console and in commands: where accounts are texts, none becomes a number."""
        (self.directory / "console-users").write_text(users_file())
        daemon = await self.start_daemon(self.text + ADMIN, "console.ini")
        self.admin = daemon.url("", "admin")
        registered = {"sip_user_id": "100", "token": "t1", "app": "com.example"}
        url = daemon.url("/api/gcm-device/")
        done = self.client.post(url, data=registered, auth=("100", "geheim"))
        self.assertEqual((await self._answered(done)).status, 201)
        fields = {"sip_user_id": "100", "phonenumber": "1", "call_id": "c1"}
        url = daemon.url("/api/incoming-call/")
        held = Deferred.fromCoroutine(self.post(url, **fields))
        await self.pushes.get()
        (report,) = (await self.document("/api/overview"))["daemons"]
        await self._answered(self.client.delete(f"{url}?sip_user_id=100&call_id=c1"))
        self.assertEqual((await held).header("X-Outcome"), "cancelled")
        page = await self.until_document("/api/calls", lambda page: page["calls"])
        account = await self.document("/api/devices/100")
        shown = [*report["held_calls"], *page["calls"], account]
        for command in (("calls", "list"), ("calls", "show", "c1"), ("devices", "show", "100")):
            ran = await self.command(*command[:2], "-c", "console.ini", "--json", *command[2:])
            shown.append(json.loads(ran.out))
        shown.append(await self.document("/api/devices/100", "DELETE"))
        self.assertEqual([each["sip_user_id"] for each in shown], ["100"] * 7)


class ReloadTests(OneDaemonCase):
    """Devices are stored with numbers or with texts."""

    backend = "open"

    async def test_numbers_and_texts_do_not_change_in_a_reload(self) -> None:
        """That takes a restart; another pattern is used at once."""
        await self.register(ACCOUNT)
        self.write_config(self.text.replace(f"sip_user_id_pattern = {PATTERN}\n", ""))
        await self.reload()
        self.assertIn(
            "[accounts] sip_user_id_pattern (numbers or texts) has changed: it takes effect at"
            " the next start",
            self.daemon.log,
        )
        self.assertEqual((await self.register(ACCOUNT)).status, 200)
        self.write_config(self.text.replace(PATTERN, ".+@other"))
        await self.reload()
        self.assertEqual((await self.register(ACCOUNT)).status, 400)

    async def reload(self) -> None:
        before = self.daemon.log.count("configuration reloaded")
        self.daemon.signal(signal.SIGHUP)
        while self.daemon.log.count("configuration reloaded") == before:
            await deferLater(CLOCK, 0.01)
