"""How registrations and push results change the devices of a real daemon, from outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.task import deferLater

from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.google_errors import legacy_error
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import GooglePush
from tests.daemons import PORTS, Answered, DaemonTestCase
from tests.fleet import FleetTestCase, Shared, clock
from tests.servers.redis import shared_cluster

APP, SHARED_APP = "com.example", "com.example.shared"
FIRST_ACCOUNT = 300_000_001


class DevicesTestCase(DaemonTestCase):
    """One daemon, whose phones answer each call at once."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.pushes: list[GooglePush] = []
        self.answers: list[Deferred[Answered]] = []
        self.notices: DeferredQueue[str] = DeferredQueue()
        self.answering = True
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self.pushed)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))
        await self.google.start()
        section = f"api_key = key\nurl = {self.google.url}/gcm/send\nresend = never\n"
        self.config = (
            f"{PORTS}[accounts]\nbackend = open\n[calls]\nroundtrip_wait_ms = 20000\n"
            f"[app:{APP}:gcm]\n{section}"
            f"[app:{SHARED_APP}:gcm]\n{section}accounts_per_token = many\n"
        )
        self.daemon: DaemonProcess = await self.start_daemon(self.config)

    def pushed(self, push: GooglePush) -> None:
        """Answer a call push as the phone; a notice gets no answer."""
        self.pushes.append(push)
        if push.data["type"] != "call":
            self.notices.put(push.token)
            return
        if not self.answering:
            return
        url = self.daemon.url("/api/call-response/")
        fields = {name: str(push.data[name]) for name in ("unique_key", "message_start_time")}
        self.answers.append(Deferred.fromCoroutine(self.post(url, **fields)))

    async def register(self, account: int, token: str, app: str = APP) -> int:
        """Register; returns the status."""
        url = self.daemon.url("/api/gcm-device/")
        return (await self.post(url, sip_user_id=str(account), token=token, app=app)).status

    async def call(self, account: int) -> str:
        """Post a call; returns the outcome."""
        answered = await self.post(
            self.daemon.url("/api/incoming-call/"),
            sip_user_id=str(account),
            phonenumber="0123456789",
        )
        return answered.header("X-Outcome")

    async def metrics(self) -> str:
        """A scrape."""
        return (await self.get(self.daemon.url("/metrics", "metrics"))).text

    async def until_streak(self, streak: int, *, answered: bool) -> None:
        """Wait until the database has the streak, within the test's own time-out."""
        path = self.directory / "middlewared.sqlite3"
        query = "select silent_streak, last_answered is not null from devices"
        while True:
            with closing(sqlite3.connect(path)) as connection:
                if connection.execute(query).fetchone() == (streak, answered):
                    return
            await deferLater(clock, 0.05)

    async def test_one_account_a_phone(self) -> None:
        """A phone that registers another account rings only for that one, and gets no notice."""
        self.assertEqual(await self.register(FIRST_ACCOUNT, "phone:1"), 201)
        self.assertEqual(await self.register(FIRST_ACCOUNT + 1, "phone:2"), 201)
        self.assertEqual(await self.call(FIRST_ACCOUNT), "no-device")
        self.assertEqual(await self.call(FIRST_ACCOUNT + 1), "answered")
        self.assertEqual(await self.register(FIRST_ACCOUNT, "phone:3"), 201)
        self.assertEqual(await self.call(FIRST_ACCOUNT + 1), "no-device")
        self.assertEqual([push.data["type"] for push in self.pushes], ["call"])
        await self.daemon.stop()
        self.assertIn(f"device removed: sip_user_id={FIRST_ACCOUNT} ", self.daemon.log)

    async def test_several_accounts_a_phone(self) -> None:
        """With accounts_per_token = many a phone rings for all of them."""
        for account in (FIRST_ACCOUNT, FIRST_ACCOUNT + 1):
            self.assertEqual(await self.register(account, "phone:1", SHARED_APP), 201)
        for account in (FIRST_ACCOUNT, FIRST_ACCOUNT + 1):
            self.assertEqual(await self.call(account), "answered")

    async def test_notice_goes_to_another_phone_alone(self) -> None:
        """A renewed token of the same installation is not another phone."""
        self.assertEqual(await self.register(FIRST_ACCOUNT, "phone:1"), 201)
        self.assertEqual(await self.register(FIRST_ACCOUNT, "phone:2"), 200)
        self.assertEqual(await self.register(FIRST_ACCOUNT, "other:1"), 200)
        self.assertEqual(await self.notices.get(), "phone:2")
        self.assertEqual(len(self.pushes), 1)

    async def test_mass_deaths(self) -> None:
        """The calls end token-dead; from the eleventh death on no device is removed."""
        name = f'middlewared_token_removals_paused{{app="{APP}",platform="gcm"}}'
        accounts = range(FIRST_ACCOUNT, FIRST_ACCOUNT + 13)
        for account in accounts:
            await self.register(account, f"token-{account}")
        self.google.scripts.for_all(legacy_error("NotRegistered"))
        for account in accounts[:10]:
            self.assertEqual(await self.call(account), "token-dead")
        self.assertIn(f"{name} 0.0\n", await self.metrics())
        for account in accounts[10:]:
            self.assertEqual(await self.call(account), "token-dead")
        metrics = await self.metrics()
        self.assertIn(f"{name} 1.0\n", metrics)
        self.assertIn(f'paused{{app="{SHARED_APP}",platform="gcm"}} 0.0\n', metrics)
        self.google.scripts.clear()
        outcomes = [await self.call(account) for account in accounts]
        self.assertEqual(outcomes, ["no-device"] * 10 + ["answered"] * 3)
        await self.daemon.stop()
        self.assertEqual(self.daemon.log.count(f"too many dead push tokens of {APP} on gcm"), 1)

    async def test_silent_streak(self) -> None:
        """Timeouts after an accepted push count; an answer ends them; all daemons read it."""
        await self.daemon.stop()
        self.daemon = await self.start_daemon(
            self.config.replace("roundtrip_wait_ms = 20000", "roundtrip_wait_ms = 400")
        )
        await self.register(FIRST_ACCOUNT, "phone:1")
        self.answering = False
        for _ in range(3):
            self.assertEqual(await self.call(FIRST_ACCOUNT), "timeout")
        await self.until_streak(3, answered=False)
        self.answering = True
        self.assertEqual(await self.call(FIRST_ACCOUNT), "answered")
        await self.until_streak(0, answered=True)

    async def test_registered_devices_are_counted(self) -> None:
        """By app and platform, as soon as a daemon starts."""
        for account in (FIRST_ACCOUNT, FIRST_ACCOUNT + 1):
            await self.register(account, "phone:1", SHARED_APP)
        await self.daemon.stop()
        self.daemon = await self.start_daemon(self.config)
        counted = f'middlewared_devices{{app="{SHARED_APP}",platform="gcm"}} 2.0\n'
        while counted not in (metrics := await self.metrics()):
            await deferLater(clock, 0.05)
        self.assertIn("middlewared_silent_devices 0.0\n", metrics)


class FleetDevicesTests(FleetTestCase):
    """Two daemons that share a database."""

    async def test_one_account_a_phone_at_any_daemon(self) -> None:
        """A phone that registers at another daemon rings for one account, at both daemons."""
        await self.start_fleet(Shared.of(shared_cluster()), daemons=2)
        fields = {"token": "phone:1", "app": "com.example"}
        for at, account in enumerate((FIRST_ACCOUNT, FIRST_ACCOUNT + 1)):
            url = self.daemons[at].url("/api/gcm-device/")
            self.assertEqual((await self.post(url, sip_user_id=str(account), **fields)).status, 201)
        for at in (0, 1):
            lost = await self.call(at, number=0)
            self.assertEqual(lost.header("X-Outcome"), "no-device")
            await self.rung(at, number=1)
