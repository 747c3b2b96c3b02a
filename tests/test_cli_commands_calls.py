"""``middlewared calls``: which calls it lists, and how it explains one."""

from __future__ import annotations

import json
import time
from typing import Any

import attrs
from twisted.internet import reactor

from middlewared.config import read_config
from middlewared.history import history_rows
from middlewared.history.interface import CallRecord, DeviceEvent, KeptAnswer, KeptPush, KeptReport
from middlewared.model import Device, Platform
from middlewared.quoting import fingerprint
from middlewared.service.storage import choose_storage
from tests.contracts.history import a_call, row_of
from tests.servers.postgres import shared_server
from tests.test_cli_commands import CommandTestCase, Ran

ACCOUNT = "123456789"
UUID = "01234567-89ab-cdef-0123-456789abcdef"
HOSTILE = "\u202eevil\x1b[2J\n</script>"
DEVICE = Device(123456789, Platform.APNS, "com.example.phone", "t" * 64, name=HOSTILE)


class HistoryCommandCase(CommandTestCase):
    """Calls that were answered, timed out with a late answer, were hung up, had no device."""

    days = 14

    def url(self) -> str:
        """``[database] url``."""
        return "sqlite:middlewared.sqlite3"

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.now = time.time()
        text = f"[database]\nurl = {self.url()}\n[history]\ndays = {self.days}\n"
        self.config = self.write_config(text)
        storage = choose_storage(read_config(self.config, {}), reactor=reactor)
        await storage.devices.start()
        await storage.devices.register(DEVICE)
        await storage.history.add_calls([row_of(call) for call in self.calls()])
        report = KeptReport(self.now, "log-metrics", {"failed_reason": HOSTILE, "network": "4G"})
        late = KeptAnswer(self.now - 174.8, True, False, 1200.0, "bb")
        await storage.history.add_facts(
            [
                history_rows.report_row("first", ACCOUNT, report),
                history_rows.answer_row(UUID, "", late),
                history_rows.joined_row(UUID, ACCOUNT, self.now - 179.0),
            ]
        )
        event = DeviceEvent.of(DEVICE, "replaced", why="app", reason=HOSTILE)
        event = attrs.evolve(event, time=self.now - 500)
        await storage.history.add_device_events([history_rows.device_event_row(event, "d")])
        await storage.devices.stop()

    def calls(self) -> list[CallRecord]:
        return [
            self.call(240, unique_key="first"),
            self.call(180, unique_key=UUID, outcome="timeout", answer=None),
            self.call(120, unique_key="third", outcome="hung-up", answer=None, caller_id=HOSTILE),
            self.call(
                60,
                unique_key="fourth",
                sip_user_id="5",
                outcome="no-device",
                platform="none",
                app="",
                pushes=(),
                answer=None,
            ),
        ]

    def call(self, ago_s: float, **changes: Any) -> CallRecord:
        start = self.now - ago_s
        push = KeptPush(1, start + 0.001, "accepted", "", 41.25, False, "apns-id")
        answer = KeptAnswer(start + 0.8, True, True, None, "aa")
        call = attrs.evolve(a_call(), start=start, pushes=[push], answer=answer)
        return attrs.evolve(call, **changes)

    async def calls_command(self, *arguments: object) -> Ran:
        ran = await self.command("calls", *arguments, "-c", self.config)
        for control in "\u202e\x1b":
            self.assertNotIn(control, ran.out + ran.err)
        return ran

    async def listed(self, *filters: object) -> list[str]:
        """The keys of the listed calls, as programs get them."""
        ran = await self.calls_command("list", *filters, "--json")
        self.assertEqual((ran.code, ran.err), (0, ""))
        return [json.loads(line)["unique_key"] for line in ran.out.splitlines()]

    async def tabulated(self, *filters: object) -> list[str]:
        """The same, as people see them."""
        heading, *lines = (await self.calls_command("list", *filters)).out.splitlines()
        self.assertEqual(heading.split()[-1], "unique_key")
        return [line.split()[-1] for line in lines]


class CallsOnSqliteTests(HistoryCommandCase):
    """A history in a file."""

    async def test_list(self) -> None:
        """Newest first, in at most 80 columns; without a command the calls are listed."""
        for keys in (await self.listed(), await self.tabulated()):
            self.assertEqual(keys, ["fourth", "third", UUID, "first"])
        ran = await self.calls_command()
        self.assertLessEqual(max(map(len, ran.out.splitlines())), 80)
        self.assertRegex(
            ran.out, rf"(?m)^\d\d-\d\d \d\d:\d\d:\d\d 123456789 timeout +…-5678 {UUID}$"
        )

    async def test_names_of_pbxs(self) -> None:
        """Where PBXs have names the list has them, too."""
        text = self.config.read_text() + "[pbx:berlin]\nnetworks = 192.0.2.0/24\n"
        self.write_config(text)
        ran = await self.calls_command()
        self.assertRegex(
            ran.out, rf"(?m) caller pbx    unique_key\n(.*\n)*.* timeout .* berlin {UUID}$"
        )
        self.assertRegex((await self.calls_command("show", UUID)).out, r"(?m)^pbx +berlin$")
        shown = await self.calls_command("show", UUID, "--json")
        self.assertEqual(json.loads(shown.out)["pbx"], "berlin")

    async def test_filters(self) -> None:
        """Account, call_id, key, number, outcome, app, platform and time; several at once."""
        for filters, keys in (
            (["5"], ["fourth"]),
            (["first"], ["first"]),
            (["id-0"], ["fourth", "third", UUID, "first"]),
            (["--number", "+31612345678", "--outcome", "timeout"], [UUID]),
            (["--outcome", "hung-up"], ["third"]),
            (["--app", "com.example.phone", "--platform", "apns"], ["third", UUID, "first"]),
            (["--since", "150s"], ["fourth", "third"]),
            (["--since", "2000-01-01", "--until", "150s"], [UUID, "first"]),
            (["nothing"], []),
        ):
            self.assertEqual(await self.listed(*filters), keys, filters)
        self.assertEqual(await self.tabulated("--outcome", "hung-up"), ["third"])
        self.assertEqual(await self.tabulated("nothing"), [])

    async def test_limit(self) -> None:
        """A line for people reports that there are more; programs get the newest."""
        ran = await self.calls_command("--limit", 3)
        self.assertEqual(len(ran.out.splitlines()), 1 + 3)
        self.assertEqual(ran.err, "the newest 3 calls; --limit N shows more\n")
        ran = await self.calls_command("--limit", 4)
        self.assertEqual((len(ran.out.splitlines()), ran.err), (1 + 4, ""))

    async def test_wrong_filters(self) -> None:
        """They are named, and nothing is listed."""
        for filters in (["--since", "yesterday"], ["--outcome", "lost"], ["--limit", "0"]):
            ran = await self.calls_command(*filters)
            self.assertNotEqual(ran.code, 0)
            self.assertIn(filters[0], ran.err)
            self.assertEqual(ran.out, "")

    async def test_show(self) -> None:
        """The newest call that matches: its fields, the verdict, and what happened when."""
        ran = await self.calls_command("show", UUID)
        self.assertEqual((ran.code, ran.err), (0, ""))
        self.assertLess(max(map(len, ran.out.splitlines())), 80)
        self.assertIn("outcome      timeout\n", ran.out)
        self.assertIn("The phone took the call, but 1.2 s too late", ran.out)
        for line in (
            r" +42 ms  push 1: accepted by Apple after 41 ms, id apns-id",
            r" +1.0 s  the PBX repeated the call",
            r" +5.2 s  the phone took the call, 1.2 s too late",
        ):
            self.assertRegex(ran.out, rf"(?m)^{line}$")
        self.assertIn("unique_key   third\n", (await self.calls_command("show", ACCOUNT)).out)
        shown = (await self.calls_command("show", "third")).out
        self.assertIn(r"\u202eevil\x1b[2J\n</script>", shown)

    async def test_show_as_json(self) -> None:
        """One object with exactly the documented names."""
        ran = await self.calls_command("show", "first", "--json")
        call = json.loads(ran.out)
        self.assertEqual(
            " ".join(call),
            "unique_key call_id sip_user_id app platform daemon pbx start outcome verdict"
            " phonenumber caller_id steps pushes answers joined reports",
        )
        self.assertEqual(call["sip_user_id"], 123456789)
        self.assertEqual(call["steps"][0], {"step": "device", "milliseconds": 0.4})
        (push,) = call["pushes"]
        self.assertRegex(push.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(
            push,
            {
                "attempt": 1,
                "verdict": "accepted",
                "reason": "",
                "milliseconds": 41.25,
                "uncertain": False,
                "provider_id": "apns-id",
            },
        )
        (answer,) = call["answers"]
        self.assertEqual(list(answer), ["time", "available", "decided", "late_milliseconds"])
        self.assertEqual((answer["decided"], answer["late_milliseconds"]), (True, None))
        (report,) = call["reports"]
        self.assertEqual((report["kind"], report["network"]), ("log-metrics", "4G"))
        self.assertEqual(report["failed_reason"], HOSTILE)

    async def test_show_finds_nothing(self) -> None:
        """Exit code 1, and no output."""
        for more in ((), ("--json",)):
            ran = await self.calls_command("show", "nothing", *more)
            self.assertEqual(ran, Ran(1, "", "no such call is kept\n"))

    async def test_device_with_its_history(self) -> None:
        """Its fields as before, then events and the last calls."""
        ran = await self.command("devices", "show", "-c", self.config, ACCOUNT)
        self.assertEqual((ran.code, ran.err), (0, ""))
        self.assertIn(r"name: \u202eevil\x1b[2J\n</script>", ran.out)
        token = fingerprint(DEVICE.token)
        self.assertRegex(ran.out, rf"(?m)^\d.* replaced +app +{token} \\u202eevil")
        self.assertRegex(ran.out, "(?m)^.* hung-up .* third$")
        ran = await self.command("devices", "show", "--json", "-c", self.config, ACCOUNT)
        shown = json.loads(ran.out)
        self.assertEqual([call["unique_key"] for call in shown["calls"]], ["third", UUID, "first"])
        self.assertEqual([event["event"] for event in shown["events"]], ["replaced"])
        self.assertEqual((shown["silent_streak"], shown["last_answered"]), (0, None))
        self.assertEqual(shown["device"]["token"], token)
        self.assertNotIn(DEVICE.token, ran.out)

    async def test_removed_device(self) -> None:
        """An operator's removal is an event; events and calls outlive the device."""
        ran = await self.command("devices", "delete", "-c", self.config, ACCOUNT)
        self.assertEqual(ran.code, 0)
        ran = await self.command("devices", "show", "--json", "-c", self.config, ACCOUNT)
        self.assertEqual((ran.code, ran.err), (1, f"{ACCOUNT} has no device\n"))
        shown = json.loads(ran.out)
        self.assertIsNone(shown["device"])
        events = [(event["event"], event["why"]) for event in shown["events"]]
        self.assertEqual(events, [("removed", "operator"), ("replaced", "app")])
        self.assertIsNotNone(shown["last_answered"])
        self.assertEqual(len(shown["calls"]), 3)
        ran = await self.command("devices", "show", "-c", self.config, ACCOUNT)
        self.assertEqual(ran.code, 1)
        self.assertIn(" removed ", ran.out)


class CallsOnPostgresTests(CallsOnSqliteTests):
    """The same in PostgreSQL."""

    def url(self) -> str:
        return shared_server().url(shared_server().database_for(self))


class HistoryThatIsOffTests(HistoryCommandCase):
    """``days = 0``."""

    days = 0

    async def test_nothing_is_found(self) -> None:
        """Neither calls nor events, and an operator's removal is not kept; people learn why."""
        off = "the history is off: [history] days = 0\n"
        self.assertEqual(await self.calls_command("--json"), Ran(0, "", off))
        ran = await self.calls_command("show", "first")
        self.assertEqual(ran, Ran(1, "", f"{off}no such call is kept\n"))
        ran = await self.command("devices", "show", "--json", "-c", self.config, ACCOUNT)
        shown = json.loads(ran.out)
        self.assertEqual((ran.code, shown["events"], shown["calls"]), (0, [], []))
        await self.command("devices", "delete", "-c", self.config, ACCOUNT)
        ran = await self.command("devices", "show", "-c", self.config, ACCOUNT)
        self.assertEqual(ran, Ran(1, "", f"{ACCOUNT} has no device\n"))
