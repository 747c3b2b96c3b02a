"""Ending and reloading the daemon while calls are held."""

from __future__ import annotations

import json
import signal
import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import GooglePush
from tests.daemons import PORTS, Answered, DaemonTestCase


class DrainTests(DaemonTestCase):
    """A daemon whose one app is woken through a simulated GCM."""

    def setUp(self) -> None:
        super().setUp()
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self._pushed)
        self.pushed: list[GooglePush] = []
        self.awaited: tuple[int, Deferred[None]] | None = None
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))

    def _pushed(self, push: GooglePush) -> None:
        self.pushed.append(push)
        if self.awaited is not None and len(self.pushed) == self.awaited[0]:
            self.awaited[1].callback(None)

    async def pushes(self, count: int) -> None:
        """Wait for the ``count``-th push."""
        if len(self.pushed) < count:
            self.awaited = (count, Deferred())
            await self.awaited[1]

    async def start(self, extra: str = "") -> DaemonProcess:
        """A daemon with one phone registered."""
        await self.google.start()
        daemon = await self.start_daemon(self.config(extra))
        self.daemon = daemon
        registered = await self.post(
            daemon.url("/api/gcm-device/"),
            sip_user_id="123456789",
            token="phone",
            app="com.example",
        )
        self.assertEqual(registered.status, 201)
        return daemon

    def config(self, extra: str = "") -> str:
        return (
            f"{PORTS}[accounts]\nbackend = open\n"
            f"[app:com.example:gcm]\napi_key = key\nurl = {self.google.url}/gcm/send\n"
            f"resend = never\n[calls]\nroundtrip_wait_ms = 8000\n{extra}"
        )

    def call(self, call_id: str = "") -> Deferred[Answered]:
        """A held call."""
        return Deferred.fromCoroutine(
            self.post(
                self.daemon.url("/api/incoming-call/"),
                sip_user_id="123456789",
                phonenumber="0123456789",
                call_id=call_id,
            )
        )

    async def answer(self, push: GooglePush) -> int:
        """The phone answers ``push``."""
        answered = await self.post(
            self.daemon.url("/api/call-response/"),
            unique_key=str(push.data["unique_key"]),
            message_start_time=str(push.data["message_start_time"]),
        )
        return answered.status

    async def test_drain_lets_held_calls_finish(self) -> None:
        """After SIGTERM, or two, held calls are answered, new ones refused, the exit code is 0."""
        await self.start()
        held = self.call()
        await self.pushes(1)
        self.daemon.signal(signal.SIGTERM)
        health = await self.until_draining()
        self.assertEqual((health.status, health.text), (503, '{"status": "draining"}'))
        self.daemon.signal(signal.SIGTERM)
        refused = await self.call()
        self.assertEqual((refused.status, refused.text), (503, "status=NAK"))
        self.assertEqual(refused.header("X-Outcome"), "draining")
        self.assertEqual(await self.answer(self.pushed[0]), 202)
        answered = await held
        self.assertEqual((answered.status, answered.text), (200, "status=ACK"))
        self.assertEqual(await self.daemon.ended(), 0)

    async def test_calls_left_at_the_end_of_the_drain_are_answered(self) -> None:
        """drain_ms after SIGTERM every call still held gets its NAK; none is cut off."""
        await self.start("drain_ms = 300\n")
        held = [self.call() for _ in range(20)]
        await self.pushes(20)
        self.daemon.signal(signal.SIGTERM)
        for answered in await gatherResults(held):
            self.assertEqual((answered.status, answered.text), (503, "status=NAK"))
            self.assertEqual(answered.header("X-Outcome"), "draining")
        self.assertEqual(await self.daemon.ended(), 0)
        self.assertEqual(self.daemon.log.count("call draining "), 20)

    async def test_calls_are_taken_during_the_notice(self) -> None:
        """For drain_notice_ms /health/ is 503 already; calls are still rung and joined."""
        await self.start("drain_notice_ms = 3000\n")
        held = [self.call("repeated")]
        await self.pushes(1)
        self.daemon.signal(signal.SIGTERM)
        await self.until_draining()
        held += [self.call("repeated"), self.call("new")]
        await self.pushes(2)
        for push in self.pushed:
            self.assertEqual(await self.answer(push), 202)
        for answered in await gatherResults(held):
            self.assertEqual(answered.text, "status=ACK")
        self.assertEqual(len(self.pushed), 2)

    async def test_reply_reaches_a_pbx_that_reads_late(self) -> None:
        """What was written before the end can be read after it."""
        await self.start("drain_ms = 100\n")
        host, port = self.daemon.addresses["http"].split(":")
        body = b"sip_user_id=123456789&phonenumber=1"
        head = (
            b"POST /api/incoming-call/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" % len(body)
        )
        with socket.create_connection((host, int(port))) as pbx:
            pbx.sendall(head + body)
            await self.pushes(1)
            self.daemon.signal(signal.SIGTERM)
            self.assertEqual(await self.daemon.ended(), 0)
            self.assertTrue(pbx.makefile("rb").read().endswith(b"\r\n\r\nstatus=NAK"))

    async def test_reload_keeps_held_calls_and_takes_new_settings(self) -> None:
        """SIGHUP: the held call is answered; later calls follow the new settings."""
        await self.start()
        held = self.call()
        await self.pushes(1)
        self.write_config(self.config().replace("[http]", "[http]\npbx_networks = 192.0.2.0/24"))
        self.daemon.signal(signal.SIGHUP)
        await self.until_logged("configuration reloaded")
        refused = await self.call()
        self.assertEqual((refused.status, refused.text), (403, "status=NAK"))
        await self.answer(self.pushed[0])
        self.assertEqual((await held).text, "status=ACK")

    async def test_broken_reload_changes_nothing(self) -> None:
        """A broken new configuration is refused with its problems logged."""
        await self.start()
        self.write_config(self.config() + "max_waitin = 3\n")
        self.daemon.signal(signal.SIGHUP)
        await self.until_logged("configuration not reloaded")
        self.assertIn("[calls] max_waitin: unknown key", self.daemon.log)
        held = self.call()
        await self.pushes(1)
        await self.answer(self.pushed[0])
        self.assertEqual((await held).text, "status=ACK")

    async def test_health_counts_waiting_calls(self) -> None:
        """waiting is the number of held calls."""
        await self.start()
        held = self.call()
        await self.pushes(1)
        health = await self.get(self.daemon.url("/health/"))
        self.assertEqual(json.loads(health.text)["waiting"], 1)
        await self.answer(self.pushed[0])
        await held

    async def until_draining(self) -> Answered:
        """Ask for the health until it is 503: the signal takes its time to arrive."""
        while True:
            health = await self.get(self.daemon.url("/health/"))
            if health.status == 503:
                return health

    async def until_logged(self, text: str) -> None:
        """Wait until ``text`` was logged."""
        await self.has_logged(self.daemon, text)
