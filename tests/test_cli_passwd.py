"""``middlewared passwd``: a user's line in a file of ``USER:bcrypt`` lines."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import bcrypt
from twisted.trial.unittest import SynchronousTestCase

from middlewared.accounts.htpasswd import read_passwords
from tests.test_cli_commands import MAIN, ROOT, Ran

SECRET = "correct horse ü"


class PasswdTests(SynchronousTestCase):
    """The command in a process of its own."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.file = folder.absolute() / "htpasswd"

    def command(self, user: str, given: str, file: Path | None = None) -> Ran:
        """Run it with ``given`` as standard input."""
        done = subprocess.run(
            [sys.executable, *MAIN, "passwd", str(file or self.file), user],
            input=given.encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=300,
            check=False,
        )
        self.assertNotIn(SECRET, (done.stdout + done.stderr).decode())
        self.assertNotIn(b"Traceback", done.stderr)
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines()

    def hash_of(self, user: str) -> bytes:
        (line,) = [line for line in self.lines() if line.startswith(f"{user}:")]
        return line.partition(":")[2].encode()

    def test_new_file(self) -> None:
        """It is for its owner alone, and holds a bcrypt hash."""
        ran = self.command("ann", f"{SECRET}\n")
        self.assertEqual(ran, Ran(0, f"{self.file}: password of ann set\n", ""))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertTrue(bcrypt.checkpw(SECRET.encode(), self.hash_of("ann")))

    def test_other_lines_stay(self) -> None:
        """Comments too; the user's line keeps its place, and a second one goes."""
        self.file.write_text("# ours\nann:old\nbob:other\nann:older\n")
        ran = self.command("ann", f"{SECRET}\nmore\n")
        self.assertIn("password of ann changed", ran.out)
        first, second, third = self.lines()
        self.assertEqual((first, third), ("# ours", "bob:other"))
        self.assertTrue(bcrypt.checkpw(SECRET.encode(), second.removeprefix("ann:").encode()))

    def test_file_is_replaced(self) -> None:
        """A reader sees the old one to its end; a file that all may read is closed to others."""
        self.file.write_text("bob:other\n")
        self.file.chmod(0o644)
        with self.file.open() as before:
            self.command("ann", SECRET)
            self.assertEqual(before.read(), "bob:other\n")
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertEqual([path.name for path in self.file.parent.iterdir()], ["htpasswd"])

    def test_group_of_the_daemon(self) -> None:
        """A mode that lets a group read it was chosen for the daemon, and stays."""
        self.file.write_text("bob:other\n")
        self.file.chmod(0o640)
        self.command("ann", SECRET)
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o640)

    def test_link_stays(self) -> None:
        """The file that it names is replaced."""
        link = self.file.with_name("link")
        link.symlink_to(self.file)
        self.command("ann", SECRET, link)
        self.assertTrue(link.is_symlink())
        self.assertEqual(len(self.lines()), 1)

    def test_accounts_of_apps(self) -> None:
        """[accounts] htpasswd reads such a file."""
        self.command("123456789", SECRET)
        self.assertIn(123456789, read_passwords(self.file).hashes)

    def test_what_cannot_be_used(self) -> None:
        """One line of reason, exit code 1, and the file is as it was."""
        for user, given in (
            ("ann", ""),
            ("ann", "\n"),
            ("ann", "x" * 73),
            ("a:b", SECRET),
            ("#a", SECRET),
            ("a\nb", SECRET),
            ("", SECRET),
        ):
            ran = self.command(user, given)
            self.assertEqual((ran.code, ran.err.count("\n"), ran.out), (1, 1, ""))
        self.assertFalse(self.file.exists())
        ran = self.command("ann", SECRET, self.file / "missing" / "file")
        self.assertEqual((ran.code, ran.err.count("\n")), (1, 1))

    def at_terminal(self, *typed: str) -> tuple[int, str]:
        """Run it at a terminal; the exit code, and all that the terminal shows."""
        shown, terminal = pty.openpty()

        def take_terminal() -> None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(
            [sys.executable, *MAIN, "passwd", str(self.file), "ann"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(terminal)
        text = b""
        for line in typed:
            while not text.endswith(b": "):
                text += os.read(shown, 1000)
            os.write(shown, f"{line}\n".encode())
            text += b"\n"
        while part := self.read(shown):
            text += part
        os.close(shown)
        return process.wait(300), text.decode()

    def read(self, shown: int) -> bytes:
        try:
            return os.read(shown, 1000)
        except OSError:  # the process has ended
            return b""

    def test_terminal(self) -> None:
        """The password is typed twice and not shown."""
        code, text = self.at_terminal(SECRET, SECRET)
        self.assertEqual(code, 0, text)
        self.assertNotIn(SECRET, text)
        self.assertTrue(bcrypt.checkpw(SECRET.encode(), self.hash_of("ann")))

    def test_different_passwords_at_the_terminal(self) -> None:
        """Nothing is set."""
        code, text = self.at_terminal(SECRET, "other")
        self.assertEqual(code, 1)
        self.assertIn("the two passwords differ", text)
        self.assertFalse(self.file.exists())
