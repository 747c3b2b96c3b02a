"""Apps that are not Vialer's: what they read, where they answer, and how often they are pushed."""

from __future__ import annotations

import json
import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.task import deferLater

from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import GooglePush
from tests.daemons import PORTS, Answered, DaemonTestCase

CLOCK: Any = reactor
ACCOUNT = "300000001"
OTHER_URL = "https://other.example/api/call-response/"


class PayloadTests(DaemonTestCase):
    """One app with everything of its own, and one without."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        super().setUp()
        self.pushes: DeferredQueue[GooglePush] = DeferredQueue()
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self.pushes.put)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))
        await self.google.start()
        self.write_payload({"id": "{call_id}", "n": "{attempt}", "to": "{response_api}"})
        section = f"api_key = key\nurl = {self.google.url}/gcm/send\n"
        self.daemon = await self.start_daemon(
            f"{PORTS}[accounts]\nbackend = open\n"
            "[calls]\nroundtrip_wait_ms = 4000\nresend_interval_ms = 2000\n"
            "answer_by_registration = yes\n"
            f"[app:com.example.plain:gcm]\n{section}"
            f"[app:com.example.own:gcm]\n{section}payload = own.json\n"
            f"response_api = {OTHER_URL}\nresend_interval_ms = 100\n"
        )

    def write_payload(self, document: dict[str, str]) -> None:
        (self.directory / "own.json").write_text(json.dumps(document))

    async def call(self, app: str, call_id: str = "the-call") -> Deferred[Answered]:
        """A call for the account, which has registered with an app."""
        url = self.daemon.url("/api/gcm-device/")
        await self.post(url, sip_user_id=ACCOUNT, token="t1", app=f"com.example.{app}")
        fields = {"sip_user_id": ACCOUNT, "phonenumber": "0123", "call_id": call_id}
        url = self.daemon.url("/api/incoming-call/")
        return Deferred.fromCoroutine(self.post(url, **fields))

    async def answered(self, held: Deferred[Answered]) -> None:
        await self.post(self.daemon.url("/api/registration/"), sip_user_id=ACCOUNT)
        self.assertEqual((await held).header("X-Outcome"), "answered")

    async def test_app_with_its_own(self) -> None:
        """Its payload has these keys alone, its own address, and comes at its own interval."""
        held = await self.call("own")
        pushes = [await self.pushes.get() for _ in range(4)]
        for number, push in enumerate(pushes, 1):
            expected = {"id": "the-call", "n": str(number), "to": OTHER_URL}
            self.assertEqual(push.data, expected)
        await self.answered(held)

    async def test_app_without(self) -> None:
        """The payload of Vialer's apps, with what [calls] has."""
        held = await self.call("plain")
        push = await self.pushes.get()
        self.assertEqual((push.data["type"], push.data["vg_cid"]), ("call", "the-call"))
        self.assertNotEqual(push.data["response_api"], OTHER_URL)
        await self.answered(held)

    async def test_template_is_read_again(self) -> None:
        """SIGHUP uses its new text at once, and refuses a broken one."""
        self.write_payload({"new": "{call_id}"})
        self.daemon.signal(signal.SIGHUP)
        await self.until_logged("configuration reloaded")
        held = await self.call("own")
        self.assertEqual((await self.pushes.get()).data, {"new": "the-call"})
        await self.answered(held)
        self.write_payload({"broken": "{callid}"})
        self.daemon.signal(signal.SIGHUP)
        await self.until_logged("has the unknown placeholder {callid}; the nearest is {call_id}")
        held = await self.call("own", call_id="another-call")
        while (await self.pushes.get()).data != {"new": "another-call"}:
            pass
        await self.answered(held)

    async def test_wrong_template_stops_the_start(self) -> None:
        """Its problem is named as any other of the configuration."""
        self.write_payload({"from": "{caller_id}"})
        section = "[app:a:gcm]\napi_key = key\npayload = own.json\n"
        code, output = await self.refused_start(f"{PORTS}{section}")
        self.assertEqual(code, 1)
        self.assertIn("[app:a:gcm] payload: ", output)
        self.assertIn("own.json has the key 'from', which Google reserves", output)

    async def until_logged(self, text: str) -> None:
        while text not in self.daemon.log:
            await deferLater(CLOCK, 0.01)
