"""A real daemon whose standard output is not read."""

from __future__ import annotations

import signal

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from middlewared.simulator.daemon_process import DaemonProcess
from tests.daemons import PORTS, Answered, DaemonTestCase

BATCH = 20
BATCHES = 30
CONFIG = PORTS + "[log]\nlevel = debug\n"


class UnreadLogTests(DaemonTestCase):
    """The pipe takes 64 KB, and the daemon logs more than 200."""

    async def start_unread(self) -> DaemonProcess:
        daemon = await self.start_daemon(CONFIG)
        daemon.stop_reading()
        self.addCleanup(daemon.resume_reading)
        return daemon

    async def call(self, daemon: DaemonProcess, number: int) -> Answered:
        """A call to an account without a device, with a long name in the log."""
        return await self.post(
            daemon.url("/api/incoming-call/"),
            sip_user_id="260010001",
            phonenumber="1",
            call_id=f"call-{number}-" + "x" * 240,
        )

    async def log_much(self, daemon: DaemonProcess) -> None:
        for batch in range(BATCHES):
            numbers = range(batch * BATCH, (batch + 1) * BATCH)
            calls = await gatherResults(
                [Deferred.fromCoroutine(self.call(daemon, n)) for n in numbers]
            )
            self.assertEqual({call.header("X-Outcome") for call in calls}, {"no-device"})

    async def test_calls_are_answered_and_nothing_is_lost(self) -> None:
        """What it logged meanwhile is there once it is read again."""
        daemon = await self.start_unread()
        await self.log_much(daemon)
        self.assertEqual((await self.get(daemon.url("/health/"))).status, 200)
        self.assertNotIn("call-", daemon.log)
        daemon.resume_reading()
        last = f"call_id=call-{BATCH * BATCHES - 1}-"
        while last not in daemon.log:
            await deferLater(reactor, 0.02)
        self.assertGreater(len(daemon.log), 200_000)
        for number in range(BATCH * BATCHES):
            self.assertIn(f"call_id=call-{number}-", daemon.log)
        self.assertNotIn("were lost", daemon.log)

    async def test_it_ends_although_no_one_reads(self) -> None:
        """With exit code 0, as always."""
        daemon = await self.start_unread()
        await self.log_much(daemon)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(await daemon.exited(), 0)
