"""The demo, run as a newcomer runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from middlewared.demo.scenes import SCENES
from tests.daemons import DaemonTestCase

DEMO = [sys.executable, "-c", "import sys; from middlewared.cli.main import main; sys.exit(main())"]
# Its children are in one process group, as below a shell.
GROUP = [sys.executable, "-c", "import os; os.setsid();" + DEMO[-1]]
ROOT = Path(__file__).parent.parent


class Output(ProcessProtocol):
    """What the demo prints, and its end."""

    def __init__(self, until: str) -> None:
        self.text = ""
        self._until = until
        self.seen: Deferred[None] = Deferred()
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.text += data.decode()
        if self._until in self.text and not self.seen.called:
            self.seen.callback(None)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value.exitCode)  # type: ignore[union-attr]


class DemoTests(DaemonTestCase):
    """The commands of the README."""

    def environ(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def test_demo_shows_every_outcome(self) -> None:
        """Exit code 0, each scene with its outcome, and no colours into a pipe."""
        done = subprocess.run(
            [*DEMO, "demo"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=self.environ(),
            cwd=self.directory,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        for scene in SCENES:
            self.assertIn(scene.title, done.stdout)
            self.assertIn(f"as expected: {scene.outcome}", done.stdout)
        self.assertIn("status=NAK, draining", done.stdout)
        self.assertNotIn("\x1b", done.stdout)

    async def test_serve_prints_commands_that_work(self) -> None:
        """--serve stays up; what it prints registers a phone, places a call and answers it."""
        output = Output(until="Ctrl-C ends it.\n")
        spawner: Any = reactor
        process = spawner.spawnProcess(
            output,
            sys.executable,
            [*GROUP, "demo", "--serve"],
            env=self.environ(),
            path=str(self.directory),
        )
        self.addCleanup(lambda: output.ended.called or process.signalProcess("KILL"))
        await output.seen
        url = re.findall(r"curl (http://\S+)/health/", output.text)[0]
        response = await self.client.post(
            f"{url}/api/gcm-device/",
            auth=("123456789", "secret"),
            data={"sip_user_id": "123456789", "token": "my-phone", "app": "com.example.relay"},
        )
        self.assertEqual(response.code, 201)
        output.seen, output._until = Deferred(), "message_start_time"
        held = Deferred.fromCoroutine(
            self.post(
                f"{url}/api/incoming-call/", sip_user_id="123456789", phonenumber="0123456789"
            )
        )
        await output.seen
        key, start = re.findall(r"unique_key=(\S+) -d message_start_time=(\S+)", output.text)[0]
        await self.post(f"{url}/api/call-response/", unique_key=key, message_start_time=start)
        self.assertEqual((await held).text, "status=ACK")
        console, user, password = re.findall(
            r"the console +(http://\S+)/\n +user (\S+), password (\S+):", output.text
        )[0]
        page = await self.client.get(f"{console}/", auth=(user, password))
        self.assertIn("com.example.ios", await page.text())
        kept: list[object] = []
        while not kept:  # they are written within a second
            calls = await self.client.get(
                f"{console}/api/calls?outcome=token-dead", auth=(user, password)
            )
            kept = (await calls.json())["calls"]
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
        self.assertEqual(await output.ended, 0)
        self.assertNotIn("Traceback", output.text)
