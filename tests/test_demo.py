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
from twisted.web.http_headers import Headers

from middlewared.demo.scenes import DRAINING, HELD, SCENES
from tests.daemons import Answered, DaemonTestCase

DEMO = [sys.executable, "-c", "import sys; from middlewared.cli.main import main; sys.exit(main())"]
# Its children are in one process group, as below a shell.
GROUP = [sys.executable, "-c", "import os; os.setsid();" + DEMO[-1]]
ROOT = Path(__file__).parent.parent


def processes(path: str) -> str:
    """What the system has about a process; "" when it is gone."""
    try:
        return Path("/proc", path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Output(ProcessProtocol):
    """What the demo prints, and its end."""

    def __init__(self) -> None:
        self.text = ""
        self._wanted = ""
        self._seen: Deferred[None] = Deferred()
        self.ended: Deferred[int] = Deferred()

    def shows(self, pattern: str) -> Deferred[None]:
        """Wait until ``pattern`` is found in the text."""
        self._wanted, self._seen = pattern, Deferred()
        self._look()
        return self._seen

    def outReceived(self, data: bytes) -> None:
        self.text += data.decode()
        self._look()

    errReceived = outReceived

    def _look(self) -> None:
        if self._wanted and re.search(self._wanted, self.text):
            self._wanted = ""
            self._seen.callback(None)

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value.exitCode)  # type: ignore[union-attr]


class DemoTests(DaemonTestCase):
    """The commands of the README."""

    def environ(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def start_demo(self, *options: str) -> tuple[Any, Output]:
        output = Output()
        spawner: Any = reactor
        process = spawner.spawnProcess(
            output,
            sys.executable,
            [*GROUP, "demo", *options],
            env=self.environ(),
            path=str(self.directory),
        )
        self.addCleanup(self.kill, process, output)
        return process, output

    def kill(self, process: Any, output: Output) -> None:
        """End a demo that still runs, with its daemon."""
        if not output.ended.called:
            os.killpg(process.pid, signal.SIGKILL)

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
        scenes, _, summary = done.stdout.partition("\nSummary\n")
        for scene in (*SCENES, HELD, DRAINING):
            row = rf"{re.escape(scene.title)} +{scene.outcome} +(ACK|NAK) +(-|\S+ ms) +\S+ ms\n"
            self.assertRegex(summary, row)
        for number, scene in enumerate(SCENES, start=1):
            part = scenes.partition(f"\n{number}. {scene.title}\n")[2].partition("\n\n")[0]
            self.assertIn(f"as expected: {scene.outcome}", part)
            posts = part.count("phone   POST /api/call-response/")
            self.assertEqual(posts, scene.outcome in {"answered", "unavailable"}, part)
        self.assertIn("status=NAK, draining", scenes)
        self.assertLessEqual(max(map(len, done.stdout.splitlines())), 80)
        self.assertNotIn("\x1b", done.stdout)

    async def test_serve_prints_commands_that_work(self) -> None:
        """--serve stays up; what it prints registers a phone, places a call and answers it."""
        process, output = self.start_demo("--serve")
        await output.shows("Ctrl-C ends it.\n")
        url = re.findall(r"curl (http://\S+)/health/", output.text)[0]
        response = await self.client.post(
            f"{url}/api/gcm-device/",
            auth=("123456789", "secret"),
            data={"sip_user_id": "123456789", "token": "my-phone", "app": "com.example.relay"},
        )
        self.assertEqual(response.code, 201)
        held = self.place(url, "123456789")
        await output.shows("message_start_time")
        key, start = re.findall(r"unique_key=(\S+) -d message_start_time=(\S+)", output.text)[0]
        await self.post(f"{url}/api/call-response/", unique_key=key, message_start_time=start)
        self.assertEqual((await held).text, "status=ACK")
        console, user, password = re.findall(
            r"the console +(http://\S+)/\n +user (\S+), password (\S+)\n", output.text
        )[0]
        page = await self.client.get(f"{console}/", auth=(user, password))
        self.assertIn("com.example.ios", await page.text())
        kept: list[object] = []
        while not kept:  # they are written within a second
            calls = await self.client.get(
                f"{console}/api/calls?outcome=token-dead", auth=(user, password)
            )
            kept = (await calls.json())["calls"]
        await self.answer_as_a_person(output, url)
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
        self.assertEqual(await output.ended, 0)
        self.assertNotIn("Traceback", output.text)

    async def answer_as_a_person(self, output: Output, url: str) -> None:
        """The phone "me" answers by its command and by its page; calls and answers are shown."""
        phone = re.findall(r"curl -X POST (http://\S+)/answer", output.text)[0]
        self.assertEqual((await self.post(f"{phone}/answer")).status, 409)
        held = self.place(url, "me")
        await output.shows("delivers push 1 to me: 0123456789 calls")
        answered = await self.post(f"{phone}/answer")
        self.assertEqual((answered.status, (await held).text), (200, "status=ACK"))
        await output.shows(r"daemon +call answered unique_key")
        held = self.place(url, "me")
        await output.shows("(?s)(push 1 to me.*){2}")
        page = (await self.get(f"{phone}/")).text
        self.assertIn("0123456789 calls.", page)
        self.assertIn('formaction="/refuse"', page)
        await self.client.post(f"{phone}/refuse", headers=Headers({"Accept": ["text/html"]}))
        self.assertEqual((await held).text, "status=NAK")
        self.assertIn("Refused: 202", (await self.get(f"{phone}/")).text)

    def place(self, url: str, account: str) -> Deferred[Answered]:
        """A call that waits."""
        return Deferred.fromCoroutine(
            self.post(f"{url}/api/incoming-call/", sip_user_id=account, phonenumber="0123456789")
        )

    async def test_an_interrupted_demo_leaves_nothing_running(self) -> None:
        """SIGTERM between its scenes ends it with 130, and its daemon, without a traceback."""
        process, output = self.start_demo()
        await output.shows("as expected")
        (daemon,) = processes(f"{process.pid}/task/{process.pid}/children").split()
        process.signalProcess("TERM")
        self.assertEqual(await output.ended, 130)
        self.assertNotIn("middlewared", processes(f"{daemon}/cmdline"))
        self.assertNotIn("Traceback", output.text)
