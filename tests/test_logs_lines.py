"""Appending lines to a file: batches, full disks, threads, and a run under twistd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from middlewared.logs import LineFile
from middlewared.logs.lines import MOST_BYTES
from tests.test_logs import FileCase

TAC = """
from twisted.application.service import Application, MultiService
from twisted.internet import reactor
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from middlewared.logs import LogOutput

log = Logger(namespace="middlewared.tac")

class Top(MultiService):
    output = LogOutput()

    def setServiceParent(self, parent):
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.output)
        super().setServiceParent(parent)

    def startService(self):
        self.output.start(reactor.callFromThread)
        log.info("started")
        reactor.callLater(0, reactor.stop)

    def stopService(self):
        log.info("stopped")
        reactor.addSystemEventTrigger("after", "shutdown", self.output.stop)
        reactor.addSystemEventTrigger("after", "shutdown", log.info, "last")

Top.output.reload(level="info", format="json", file=None)
application = Application("x")
Top().setServiceParent(application)
"""


class LineFileTests(FileCase):
    def setUp(self) -> None:
        super().setUp()
        self.turns: list[Callable[[], None]] = []
        self.lines = LineFile(self.path)
        self.addCleanup(self.lines.close)

    def turn(self) -> None:
        for _ in range(len(self.turns)):
            self.turns.pop(0)()

    def test_lines_are_written_at_once_until_it_is_started(self) -> None:
        """Nothing is lost when a start fails."""
        self.lines.reopen()
        self.lines.write("a")
        self.assertEqual("a\n", self.path.read_text())

    def test_lines_of_one_turn_are_written_together(self) -> None:
        """One write for all of them, in the next turn."""
        self.lines.reopen()
        self.lines.start(self.turns.append)
        for i in range(3):
            self.lines.write(str(i))
        self.assertEqual((1, ""), (len(self.turns), self.path.read_text()))
        self.turn()
        self.assertEqual("0\n1\n2\n", self.path.read_text())

    def test_a_stop_writes_what_waits_and_each_later_line(self) -> None:
        """The reactor has no next turn then."""
        self.lines.reopen()
        self.lines.start(self.turns.append)
        self.lines.write("a")
        self.lines.stop()
        self.lines.write("b")
        self.assertEqual("a\nb\n", self.path.read_text())

    def test_lines_wait_for_the_file(self) -> None:
        """What is written before the first open is not lost."""
        self.lines.write("a")
        self.lines.reopen()
        self.lines.write("b")
        self.assertEqual("a\nb\n", self.path.read_text())

    def test_rotation_puts_waiting_lines_into_the_old_file(self) -> None:
        """They belong to the time before it."""
        self.lines.reopen()
        self.lines.start(self.turns.append)
        self.lines.write("a")
        old = self.path.rename(self.path.with_suffix(".1"))
        self.lines.reopen()
        self.turn()
        self.lines.write("b")
        self.turn()
        self.assertEqual(("a\n", "b\n"), (old.read_text(), self.path.read_text()))

    def test_a_full_disk_fails_nobody_and_is_written_later(self) -> None:
        """The lines wait until there is room."""
        self.lines.open(Path("/dev/full"))
        self.lines.write("a")
        self.lines.write("b")
        self.lines.open(self.path)
        self.lines.write("c")
        self.assertEqual("a\nb\nc\n", self.path.read_text())

    def test_what_waits_for_a_full_disk_is_bounded(self) -> None:
        """Lines above it are counted; the waiting ones stay whole."""
        self.lines.open(Path("/dev/full"))
        line = "x" * (MOST_BYTES // 4)
        for _ in range(6):
            self.lines.write(line)
        self.lines.open(self.path)
        self.lines.write("end")
        self.assertEqual([line] * 3 + ["end"], self.path.read_text().splitlines())

    def test_threads_may_write(self) -> None:
        """Each line once and whole."""
        self.lines.reopen()
        self.lines.start(self.turns.append)

        def write(name: str) -> None:
            for i in range(500):
                self.lines.write(f"{name}{i}")

        threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.turn()
        self.lines.stop()
        expected = sorted(f"{name}{i}" for name in "abc" for i in range(500))
        self.assertEqual(expected, sorted(self.path.read_text().splitlines()))


class TwistdTests(FileCase):
    def test_under_twistd_it_is_the_only_observer(self) -> None:
        """Every line on standard output is ours, to the last one after the reactor's end."""
        self.path.write_text(TAC)
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        root = Path(__file__).parent.parent
        done = subprocess.run(
            [*command, "-n", "--pidfile=", "--no_save", "-y", str(self.path)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            check=True,
            timeout=60,
        )
        messages = [json.loads(line)["message"] for line in done.stdout.splitlines()]
        self.assertEqual(["started", "stopped", "last"], messages)
        self.assertEqual(b"", done.stderr)
