"""The log of a real daemon for programs: what happens to devices, and calls."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.google_errors import legacy_error
from middlewared.simulator.google_server import GoogleServer
from tests.console import ADMIN, ConsoleClient, users_file
from tests.daemons import PORTS
from tests.fleet import clock
from tests.test_cli_commands import CommandTestCase

ACCOUNT, OTHER = 300_000_001, 300_000_002


class JsonLogTests(ConsoleClient, CommandTestCase):
    """One daemon without a history, which logs JSON."""

    async def start(self, wait_ms: int = 20_000) -> None:
        """Start the daemon, and a Google that no phone listens to."""
        self.google = GoogleServer(reactor=reactor, api_keys=["key"])
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))
        await self.google.start()
        (self.directory / "console-users").write_text(users_file())
        text = (
            f"{PORTS}[accounts]\nbackend = open\n[calls]\nroundtrip_wait_ms = {wait_ms}\n"
            "[pbx:office]\nnetworks = 127.0.0.0/8\n[history]\ndays = 0\n"
            f"{ADMIN}[log]\nformat = json\n"
            f"[app:com.example:gcm]\napi_key = key\nurl = {self.google.url}/gcm/send\n"
        )
        (self.directory / "log").touch()  # of a daemon that logs to a file
        self.write_config(
            text.replace("format = json\n", "format = json\nfile = log\n"), "file.ini"
        )
        self.daemon: DaemonProcess = await self.start_daemon(text)
        self.admin = self.daemon.url("", "admin")

    async def until_events(self, name: str, least: int) -> list[dict[str, Any]]:
        """The objects of the log that have a field of this name, once there are enough."""
        while True:
            self.assertNotIn("phone-", self.daemon.log)
            lines = self.daemon.log.rpartition("\n")[0].splitlines()  # those that are complete
            found = [event for line in lines if name in (event := json.loads(line))]
            if len(found) >= least:
                return found
            await deferLater(clock, 0.02)

    async def register(self, token: str, account: int = ACCOUNT, **more: str) -> None:
        fields = {"sip_user_id": str(account), "token": token, "app": "com.example", **more}
        answered = await self.post(self.daemon.url("/api/gcm-device/"), **fields)
        self.assertIn(answered.status, (200, 201))

    async def call(self, account: int = ACCOUNT) -> str:
        url = self.daemon.url("/api/incoming-call/")
        answered = await self.post(url, sip_user_id=str(account), phonenumber="1")
        return answered.header("X-Outcome")

    async def test_devices(self) -> None:
        """Registered, replaced, removed by whom: each once, with the token's fingerprint alone."""
        await self.start()
        await self.register("phone-a:1")
        await self.register("phone-a:1")  # apps do that at each start
        await self.register("phone-b:1")
        await self.register("phone-b:2", OTHER)  # the same phone
        url = self.daemon.url("/api/gcm-device/")
        fields = {"sip_user_id": str(OTHER), "token": "phone-b:2", "app": "com.example"}
        removed = await self._answered(self.client.delete(url, data=fields))
        self.assertEqual(removed.status, 200)
        await self.register("phone-c:1")
        self.google.scripts.for_next(1, legacy_error("NotRegistered"))
        self.assertEqual(await self.call(), "token-dead")
        await self.register("phone-d:1")
        ran = await self.command("devices", "delete", "-c", "file.ini", str(ACCOUNT))
        self.assertEqual((ran.code, ran.err), (0, ""))
        await self.register("phone-e:1")
        self.assertEqual((await self.ask(f"/api/devices/{ACCOUNT}", "DELETE")).status, 200)
        events = await self.until_events("token_fingerprint", 10)
        (by_command,) = map(json.loads, (self.directory / "log").read_text().splitlines())
        events.insert(8, by_command)
        self.assertEqual(
            [(each["event"], each["sip_user_id"], each.get("cause")) for each in events],
            [
                ("registered", ACCOUNT, None),
                ("replaced", ACCOUNT, "app"),
                ("registered", OTHER, None),
                ("removed", ACCOUNT, "other-account"),
                ("removed", OTHER, "app"),
                ("registered", ACCOUNT, None),
                ("removed", ACCOUNT, "token-dead"),
                ("registered", ACCOUNT, None),
                ("removed", ACCOUNT, "operator"),
                ("registered", ACCOUNT, None),
                ("removed", ACCOUNT, "operator"),
            ],
        )
        for each in events:
            self.assertEqual((each["level"], each["app"]), ("info", "com.example"))
            self.assertRegex(each["token_fingerprint"], "^[0-9a-f]{8}$")
        names = [each["daemon"].rpartition(":")[2] for each in events]
        own = str(self.daemon.pid)
        self.assertEqual(names, [*[own] * 8, "command", own, own])

    async def test_calls(self) -> None:
        """App, daemon, PBX, and the steps as numbers; the rest of the wait is a step."""
        await self.start(wait_ms=300)
        await self.register("phone-a:1")
        self.assertEqual(await self.call(), "timeout")
        await self.register("phone-a:1", dnd="true")
        self.assertEqual([await self.call(), await self.call(OTHER)], ["no-device"] * 2)
        timeout, dnd, unknown = await self.until_events("durations", 3)
        self.assertEqual(
            (timeout["app"], timeout["pbx"], timeout["outcome"]),
            ("com.example", "office", "timeout"),
        )
        self.assertEqual(timeout["daemon"].rpartition(":")[2], str(self.daemon.pid))
        self.assertIn(f" daemon={timeout['daemon']} pbx=office ", timeout["message"])
        steps = {each["step"]: each["milliseconds"] for each in timeout["durations"]}
        self.assertLessEqual({"device", "sent", "timeout", "replied"}, steps.keys())
        self.assertTrue(all(isinstance(each, float) for each in steps.values()), steps)
        notes = [each["durations"][0]["note"] for each in (dnd, unknown)]
        self.assertEqual(notes, ["dnd", "not-registered"])
