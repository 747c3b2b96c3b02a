"""Reloads, many of them while calls are held, and ones that are refused."""

from __future__ import annotations

import os
import signal
import uuid

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from middlewared.simulator.generations import ANDROID_6, IOS_6
from tests.daemons import PORTS, DaemonTestCase
from tests.test_flow_calls import SILENT, FlowTestCase

HELD = 20
RELOADS = 100


class ReloadTests(FlowTestCase):
    """A daemon that gets new settings and new credentials all the time."""

    calls = "roundtrip_wait_ms = 60000\nresend_interval_ms = 60000\n"

    async def test_a_hundred_reloads(self) -> None:
        """Held calls are answered, others come and go meanwhile, and nothing is left over."""
        await self.start()
        for number in range(HELD):
            generation = (ANDROID_6, IOS_6)[number % 2]
            await self.phone(generation, number=number, reaction=SILENT)
        other = await self.phone(IOS_6, number=HELD)
        keys = [str(uuid.uuid4()) for _ in range(HELD)]
        held = [self.call(number, call_id=key) for number, key in enumerate(keys)]
        await self.until_waiting(HELD)
        await self.reload_often(10)
        open_before = self.open()
        await self.reload_often(RELOADS - 10)
        while self.open() > open_before + 1:
            await deferLater(reactor, 0.05)  # the old connections end in their time
        await gatherResults([self.answer(key) for key in keys])
        self.assertEqual({result.outcome for result in await gatherResults(held)}, {"answered"})
        self.assertEqual((other.complaints, len(other.pushes)), ([], RELOADS // 10))

    async def reload_often(self, times: int) -> None:
        """Reloads, with a call after every tenth."""
        for number in range(1, times + 1):
            await self.reload(number)
            if number % 10 == 0:
                self.assertEqual((await self.call(HELD)).outcome, "answered")

    async def reload(self, number: int) -> None:
        """Other timing and another certificate."""
        before = self.stage.daemon.log.count("configuration reloaded")
        self.stage.write_config(self.calls.replace("60000", str(60000 + number)))
        self.stage.daemon.signal(signal.SIGHUP)
        await self.has_logged(self.stage.daemon, "configuration reloaded", before + 1)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many calls are held."""
        while f'"waiting": {count}}}' not in (await self.get(f"{self.stage.url}/health/")).text:
            await deferLater(reactor, 0.02)

    def answer(self, key: str) -> Deferred[object]:
        """A phone answers in the end."""
        return Deferred.fromCoroutine(
            self.post(
                f"{self.stage.url}/api/call-response/", unique_key=key, message_start_time="1"
            )
        )

    def open(self) -> int:
        """How many files and sockets the daemon has open."""
        return len(os.listdir(f"/proc/{self.stage.daemon.pid}/fd"))


class RefusedReloadTests(DaemonTestCase):
    """A reload with a fault that shows only when a file is opened."""

    async def test_metrics_file_that_cannot_be_opened(self) -> None:
        """The log keeps its level, its format and its file."""
        (self.directory / "dangling").symlink_to("nowhere/reports.jsonl")
        daemon = await self.start_daemon(PORTS)
        elsewhere = self.directory / "elsewhere.log"
        self.write_config(
            f"{PORTS}[log]\nlevel = debug\nformat = json\nfile = {elsewhere.name}\n"
            "metrics_file = dangling\n"
        )
        daemon.signal(signal.SIGHUP)
        await self.has_logged(daemon, "configuration not reloaded")
        self.assertIn("[log] metrics_file:", daemon.log)
        self.write_config(PORTS)
        daemon.signal(signal.SIGHUP)
        await self.has_logged(daemon, "configuration reloaded")
        self.assertNotIn("{", daemon.log)
        self.assertEqual(elsewhere.read_text(), "")
        self.assertEqual(await daemon.stop(), 0)
