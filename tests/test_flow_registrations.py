"""Calls to SIP apps that answer by registering, through real daemons."""

from __future__ import annotations

import json

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from middlewared.config import read_config
from middlewared.demo.stage import IOS_APP
from middlewared.service.storage import choose_storage
from middlewared.simulator.generations import ANDROID_6
from tests.fleet import FleetTestCase, Shared
from tests.servers.redis import Redis, shared_cluster
from tests.test_flow_calls import FIRST_ACCOUNT, SILENT, FlowTestCase

SIMULATED_PROJECT = "simulated-project"
VOIP, REMOTE = "a1" * 32, "b2" * 32
APPLE = {
    "pn_provider": "apns",
    "pn_param": f"TEAM123456.{IOS_APP}.remote&voip",
    "pn_prid": f"{REMOTE}:remote&{VOIP}:voip",
}


class RegistrationTests(FlowTestCase):
    """One daemon."""

    calls = f"{FlowTestCase.calls}answer_by_registration = yes\n"

    async def test_sip_app_is_woken_and_answers_by_registering(self) -> None:
        """It registers with its push parameters once, and after each push that wakes it."""
        await self.start()
        self.assertEqual(await self.pbx.registered(FIRST_ACCOUNT, **APPLE), (201, 0))
        for _ in range(2):
            pushed = self.pushed[VOIP] = Deferred()
            held = self.call()
            await pushed
            self.assertEqual(await self.pbx.registered(FIRST_ACCOUNT, **APPLE), (200, 1))
            self.assertEqual((await held).outcome, "answered")
        self.assertEqual(await self.pbx.registered(FIRST_ACCOUNT, **APPLE, expires="0"), (200, 0))
        self.assertEqual((await self.call()).outcome, "no-device")

    async def test_events_of_its_device(self) -> None:
        """The same as of a device that its app registers itself."""
        await self.start()
        await self.pbx.registered(FIRST_ACCOUNT, **APPLE)
        newer = APPLE | {"pn_prid": f"{REMOTE}:remote&{'c3' * 32}:voip"}
        await self.pbx.registered(FIRST_ACCOUNT, **newer)
        await self.pbx.registered(FIRST_ACCOUNT, **newer)
        await self.pbx.registered(FIRST_ACCOUNT, **newer, expires="0")
        await self.stage.daemon.stop()
        config = read_config(self.directory / "middlewared.ini", {})
        storage = choose_storage(config, reactor=reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(storage.devices.stop()))
        await storage.devices.start()
        events = await storage.history.device_events(str(FIRST_ACCOUNT))
        what = [(each.event, each.why) for each in events]
        self.assertEqual(what, [("removed", "app"), ("replaced", "app"), ("registered", "")])

    async def test_registration_answers_the_calls_that_had_a_push(self) -> None:
        """All of the account, or the one of its call_id; each once."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        held = []
        for number in range(3):
            pushed = self.push_to(phone)
            held.append(self.call(call_id=f"call-{number}"))
            await pushed
        registered = self.pbx.registered
        self.assertEqual(await registered(FIRST_ACCOUNT, call_id="call-1"), (200, 1))
        self.assertEqual((await held[1]).outcome, "answered")
        self.assertEqual(await registered(FIRST_ACCOUNT + 1), (200, 0))
        self.assertEqual(await registered(FIRST_ACCOUNT, expires="0"), (200, 0))
        self.assertEqual(await registered(FIRST_ACCOUNT), (200, 2))
        results = await gatherResults([held[0], held[2]])
        self.assertEqual([each.outcome for each in results], ["answered"] * 2)
        self.assertEqual(await registered(FIRST_ACCOUNT), (200, 0))

    async def test_apps_that_are_not_configured(self) -> None:
        """Another project and another bundle are 404."""
        await self.start()
        url = self.stage.url + "/api/registration/"
        account = str(FIRST_ACCOUNT)
        google = {"pn_provider": "fcm", "pn_param": SIMULATED_PROJECT, "pn_prid": "fid:token"}
        self.assertEqual((await self.post(url, sip_user_id=account, **google)).status, 201)
        for wrong in (
            google | {"pn_param": "another"},
            APPLE | {"pn_param": "TEAM123456.com.example.another.voip"},
        ):
            self.assertEqual((await self.post(url, sip_user_id=account, **wrong)).status, 404)


class OffTests(FlowTestCase):
    """answer_by_registration is off, which is the default."""

    async def test_registration_answers_nothing(self) -> None:
        """The phone's own answer is needed."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        pushed = self.push_to(phone)
        held = self.call()
        push = await pushed
        self.assertEqual(await self.pbx.registered(FIRST_ACCOUNT), (200, 0))
        self.assertFalse(held.called)
        self.assertEqual(await phone.answer(push.data, available=True), 202)
        self.assertEqual((await held).outcome, "answered")


class FleetRegistrationTests(FleetTestCase):
    """Several daemons: it does not matter which is asked."""

    calls = "answer_by_registration = yes\n"

    async def answered_anywhere(self, shared: Shared) -> None:
        """A call at any daemon is answered by a registration at any other."""
        await self.start_fleet(shared)
        await self.register(at=0)
        await self.register(at=0, number=1)
        other = self.call(0, number=1)
        await self.pushed(1)
        for at in range(3):
            held = self.call(at, call_id=f"call-{at}")
            repeat = self.call((at + 1) % 3, call_id=f"call-{at}")
            await self.pushed(1)
            await self.until_registered((at + 2) % 3)
            self.assert_acknowledged(await held, await repeat)
        self.assertFalse(other.called)
        await self.until_registered(2, number=1)
        self.assert_acknowledged(await other)

    async def until_registered(self, at: int, number: int = 0) -> None:
        """The account registers; a push that has only just been sent may not be known there."""
        answered = 0
        while not answered:
            reply = await self.registered(at, number)
            self.assertEqual(reply.status, 200)
            answered = json.loads(reply.text)["answered"]
        self.assertEqual(answered, 1)

    async def test_at_a_redis(self) -> None:
        """Standalone."""
        redis = Redis()
        self.addCleanup(redis.remove)
        await self.answered_anywhere(Shared.of(redis))

    async def test_at_a_redis_cluster(self) -> None:
        """The list of an account and the records of its calls are at different masters."""
        await self.answered_anywhere(Shared.of(shared_cluster()))

    async def test_without_redis(self) -> None:
        """At the call's own daemon it is answered; at another one it cannot be known."""
        redis = Redis()
        self.addCleanup(redis.remove)
        await self.start_fleet(Shared.of(redis), daemons=2)
        await self.register(at=0)
        held = self.call(0)
        await self.pushed(1)
        redis.kill()
        await self.until_all(redis="down")
        self.assert_service_down(await self.registered(1))
        await self.until_registered(0)
        self.assert_acknowledged(await held)
