"""Appending lines to a file: batches, full disks, threads, and a run under twistd."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from middlewared.logs import LineFile
from middlewared.logs.line_file import MOST_BYTES
from tests.test_logs import FileCase

TAC = """
from twisted.application.service import Application, MultiService
from twisted.internet import reactor
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from middlewared.logs import LogOutput

log = Logger(namespace="middlewared.tac")

class Top(MultiService):
    output = LogOutput(daemon="host:1")

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

NON_BLOCKING = """
import os
from middlewared.logs import LineFile

os.set_blocking(1, False)
lines = LineFile(None, patience_s=60)
lines.reopen()
lines.start(lambda call: call())
for number in range(1000):
    lines.write(str(number) + "x" * 1000)
lines.stop()
"""


class LineFileTests(FileCase):
    def setUp(self) -> None:
        super().setUp()
        self.turns: list[Callable[[], None]] = []
        self.lines = self.line_file(self.path)

    def line_file(self, path: Path, patience_s: float = 60.0) -> LineFile:
        """One whose end may be waited for longer than a process that ends would."""
        lines = LineFile(path, patience_s=patience_s)
        self.addCleanup(lines.close)
        return lines

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
        self.lines.write("before")
        self.lines.start(self.turns.append)
        for i in range(3):
            self.lines.write(str(i))
        self.assertEqual((1, "before\n"), (len(self.turns), self.path.read_text()))
        self.turn()
        self.lines.stop()
        self.assertEqual("before\n0\n1\n2\n", self.path.read_text())

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
        self.lines.stop()
        self.assertEqual(("a\n", "b\n"), (old.read_text(), self.path.read_text()))

    def test_a_full_disk_fails_no_one_and_is_written_later(self) -> None:
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

    def test_rotations_in_a_row_leave_no_line_out(self) -> None:
        """Also when the thread has not seen the first one yet."""
        self.lines.reopen()
        self.lines.start(self.turns.append)
        for number in range(50):
            self.lines.write(str(number))
            self.path.rename(self.path.with_suffix(f".{number}"))
            self.lines.reopen()
        self.lines.stop()
        written = [path.read_text() for path in self.path.parent.iterdir()]
        self.assertEqual(sorted(map(str, range(50))), sorted("".join(written).splitlines()))

    def test_a_line_that_the_old_file_took_half_is_whole_in_the_new_one(self) -> None:
        """A disk that became full in the middle of it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        self.lines.reopen()
        self.lines.write("a" * 10)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        self.lines.write("b" * 10)
        old = self.path.rename(self.path.with_suffix(".1"))
        self.lines.reopen()
        self.assertEqual("a" * 10 + "\n" + "b" * 5, old.read_text())
        self.assertEqual("b" * 10 + "\n", self.path.read_text())

    def test_files_are_for_their_owner_alone(self) -> None:
        """What is created is 0600; a mode that was chosen stays."""
        self.lines.reopen()
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.path.chmod(0o640)
        self.lines.reopen()
        self.assertEqual(0o640, stat.S_IMODE(self.path.stat().st_mode))


class StalledReaderTests(FileCase):
    """A pipe that is not read, which accepts 64 KB and then delays the writer."""

    def open_pipe(self, patience_s: float) -> None:
        self.turns: list[Callable[[], None]] = []
        self.reading, writing = os.pipe()
        self.lines = LineFile(Path(f"/dev/fd/{writing}"), patience_s=patience_s)
        self.lines.reopen()
        os.close(writing)
        self.addCleanup(self.lines.close)
        self.lines.start(self.run_or_keep)

    def run_or_keep(self, function: Callable[[], None]) -> None:
        """The reactor's next turn; from the writer's thread it comes later."""
        if threading.current_thread() is threading.main_thread():
            function()
        else:
            self.turns.append(function)

    def read_all(self) -> list[str]:
        """Read until the other end is closed."""
        self.lines.close()
        with open(self.reading, encoding="utf-8") as pipe:
            return pipe.read().splitlines()

    def test_it_holds_up_neither_lines_nor_the_end(self) -> None:
        """All is written once it is read again, in order, also lines after the stop."""
        self.open_pipe(patience_s=0.1)
        expected = [f"{number} {'x' * 1000}" for number in range(1000)]
        for line in expected:
            self.lines.write(line)
        self.lines.stop()
        self.lines.write("last")
        self.assertEqual([*expected, "last"], self.read_all())

    def test_what_is_lost_is_reported_when_it_is_read_again(self) -> None:
        """In one line, with the number of lines."""
        self.open_pipe(patience_s=60.0)
        seen: list[LogEvent] = []
        everyone: Any = globalLogPublisher
        everyone.addObserver(seen.append)
        self.addCleanup(everyone.removeObserver, seen.append)
        line = "x" * (1 << 20)
        for _ in range(6):
            self.lines.write(line)
        with open(self.reading, encoding="utf-8") as pipe:
            read = [pipe.readline() for _ in range(3)]
        self.assertEqual([line + "\n"] * 3, read)
        self.lines.stop()
        self.assertEqual([3], [event["lost"] for event in seen if "lost" in event])


class SharedDescriptorTests(SynchronousTestCase):
    def test_standard_output_may_be_non_blocking(self) -> None:
        """Another process that has it may have made it so: it is waited for all the same."""
        done = subprocess.run(
            [sys.executable, "-c", NON_BLOCKING],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            capture_output=True,
            check=True,
            timeout=60,
        )
        lines = done.stdout.decode().splitlines()
        self.assertEqual([str(number) for number in range(1000)], [x.strip("x") for x in lines])


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
