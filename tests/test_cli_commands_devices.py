"""``middlewared devices``: which devices it lists, and the details of one."""

from __future__ import annotations

import json
import time

import attrs
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from middlewared.cli.device_commands import _fields
from middlewared.config import read_config
from middlewared.model import Device, Platform, Wakeup
from middlewared.service.storage import choose_storage
from tests.servers.postgres import shared_server
from tests.test_cli_commands import CommandTestCase, Ran

TOKEN = "a-push-token-that-no-one-may-see"
DAY_S = 24 * 3600
ANSWERED_AT = 1_700_000_000.0


class RegistryTestCase(CommandTestCase):
    """Four devices: two on one phone, one silent, one not seen for long."""

    def url(self) -> str:
        """``[database] url``."""
        return "sqlite:middlewared.sqlite3"

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.config = self.write_config(f"[database]\nurl = {self.url()}\n")
        now = time.time()
        first = Device(100, Platform.ANDROID, "com.example", f"{TOKEN}:1", last_seen=now)
        self.devices = [
            first,
            attrs.evolve(first, sip_user_id=101, token=f"{TOKEN}:2", name="same\tphone"),
            attrs.evolve(first, sip_user_id=102, token=f"2{TOKEN}:1"),
            attrs.evolve(first, sip_user_id=103, token=f"3{TOKEN}", last_seen=now - 31 * DAY_S),
        ]
        wakeups = [
            *[Wakeup(self.devices[2], None)] * 3,
            Wakeup(self.devices[3], now - 20 * DAY_S),
            Wakeup(first, ANSWERED_AT),
        ]
        registry = choose_storage(read_config(self.config, {}), reactor=reactor).devices
        await registry.start()
        for device in self.devices:
            await registry.register(device)
        await registry.log_wakeups(wakeups)
        await registry.stop()

    async def devices_command(self, *arguments: object) -> Ran:
        """Run ``middlewared devices``; a push token is never printed."""
        name, *more = arguments
        ran = await self.command("devices", name, "-c", self.config, *more)
        self.assertNotIn(TOKEN, ran.out + ran.err)
        return ran

    async def listed(self, *filters: object) -> list[int]:
        """The listed accounts, which are the same in both formats."""
        ran = await self.devices_command("list", *filters, "--json")
        self.assertEqual((ran.code, ran.err), (0, ""))
        accounts = [json.loads(line)["sip_user_id"] for line in ran.out.splitlines()]
        table = (await self.devices_command("list", *filters)).out.splitlines()
        self.assertEqual([line.split()[0] for line in table], ["sip_user_id", *map(str, accounts)])
        return accounts


class DevicesOnSqliteTests(RegistryTestCase):
    """A registry in a file."""

    async def test_all(self) -> None:
        """The table shows the last answer and the streak of each."""
        self.assertEqual(await self.listed(), [100, 101, 102, 103])
        ran = await self.devices_command("list")
        head, first, second, third, _ = ran.out.splitlines()
        self.assertRegex(head, "token +last_seen +last_answered +silent_streak +name$")
        self.assertRegex(first, r"T\S+ +2023-11-14T22:13:20\+00:00 +0$")
        self.assertRegex(second, r" never +0 +same\\tphone$")
        self.assertRegex(third, r" never +3$")

    async def test_silent(self) -> None:
        """Those that did not answer the last N calls or more."""
        self.assertEqual(await self.listed("--silent", 3), [102])
        self.assertEqual(await self.listed("--silent", 4), [])

    async def test_not_seen_for(self) -> None:
        """An answer is a sign of life too."""
        self.assertEqual(await self.listed("--not-seen-for", 19), [103])
        self.assertEqual(await self.listed("--not-seen-for", 21), [])

    async def test_shared(self) -> None:
        """Those on a phone with several accounts; the common part of their tokens is shown."""
        self.assertEqual(await self.listed("--shared"), [100, 101])
        table = (await self.devices_command("list", "--shared")).out.splitlines()
        self.assertEqual(table[0].split()[3], "installation")
        self.assertEqual(len({line.split()[3] for line in table}), 2)

    async def test_wrong_filters(self) -> None:
        """An invalid number is refused with an explanation."""
        for wrong in ("0", "x", "9" * 5000):
            ran = await self.devices_command("list", f"--silent={wrong}")
            self.assertEqual((ran.code, ran.out), (2, ""))
            self.assertIn("is not a number from 1 to 999999", ran.err)

    async def test_show(self) -> None:
        """When the device last answered, and its streak."""
        ran = await self.devices_command("show", 100)
        self.assertIn("last_answered: 2023-11-14T22:13:20+00:00\nsilent_streak: 0\n", ran.out)
        ran = await self.devices_command("show", 102)
        self.assertIn("last_answered: never\nsilent_streak: 3\n", ran.out)
        shown = json.loads((await self.devices_command("show", "--json", 102)).out)
        self.assertEqual((shown["last_answered"], shown["silent_streak"]), (None, 3))


class FieldTests(SynchronousTestCase):
    """What is printed of a device."""

    def test_every_field_is_shown(self) -> None:
        """None of the registry's fields is left out."""
        shown = _fields(Device(100, Platform.GCM, "com.example.app", "token"))
        self.assertLessEqual({field.name for field in attrs.fields(Device)}, shown.keys())


class DevicesOnPostgresTests(RegistryTestCase):
    """The same with a server."""

    def url(self) -> str:
        return shared_server().url(shared_server().database_for(self))

    async def test_filters(self) -> None:
        """Each one alone, and all combined: a device must match all of them."""
        self.assertEqual(await self.listed("--silent", 3), [102])
        self.assertEqual(await self.listed("--shared"), [100, 101])
        self.assertEqual(await self.listed("--not-seen-for", 19), [103])
        together = ("--silent", 1, "--shared", "--not-seen-for", 1)
        self.assertEqual(await self.listed(*together), [])
