"""What the demo prints, on terminals and elsewhere."""

from __future__ import annotations

import io
import os
import re
import shlex

from twisted.trial.unittest import SynchronousTestCase

from middlewared.demo.screen import Screen, Style
from middlewared.demo.summary import Ending, show_summary
from middlewared.demo.timeline import Event, show_timeline

CALL = "curl -i http://127.0.0.1:28348/api/incoming-call/ -d sip_user_id=me -d phonenumber=01234567"
ENDING = Ending("1", "An iPhone answers", "answered", "status=ACK", 0.3, 0.0042, 0.31, True)


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class ScreenTests(SynchronousTestCase):
    """Colours, and lines that fit."""

    def setUp(self) -> None:
        self.set_environ(COLUMNS="80", TERM="xterm", NO_COLOR="")

    def set_environ(self, **variables: str) -> None:
        """Set environment variables, for this test."""
        self.patch(os, "environ", {**os.environ, **variables})

    def printed(self, out: io.StringIO | None = None) -> str:
        """A title, a time-line and a table."""
        out = Terminal() if out is None else out
        screen = Screen(out)
        screen.line("A title", Style.BOLD)
        events = [
            Event(9.0, "phone", "POST /api/android-device/: 201"),
            Event(10.5, "PBX", "gets 200 status=ACK, answered, " * 4),
            Event(10.0, "PBX", "POST /api/incoming-call/"),
        ]
        show_timeline(screen, events, began_at=10.0)
        show_summary(screen, [ENDING])
        return out.getvalue()

    def test_a_terminal_has_colours(self) -> None:
        """Every sequence that begins a style is ended."""
        sequences = re.findall(r"\x1b\[(\d+)m", self.printed())
        self.assertGreater(len(sequences), 6)
        self.assertEqual(set(sequences[1::2]), {"0"})

    def test_colours_can_be_refused(self) -> None:
        """NO_COLOR, a dumb terminal and a pipe get plain text."""
        self.assertNotIn("\x1b", self.printed(io.StringIO()))
        self.set_environ(NO_COLOR="1")
        self.assertNotIn("\x1b", self.printed())
        self.set_environ(NO_COLOR="")
        self.set_environ(TERM="dumb")
        self.assertNotIn("\x1b", self.printed())

    def test_lines_fit_the_terminal(self) -> None:
        """No line reaches the last column, at any width from 60 on."""
        self.set_environ(TERM="dumb")
        for columns in (60, 80, 132):
            self.set_environ(COLUMNS=str(columns))
            longest = max(map(len, self.printed().splitlines()))
            self.assertLess(longest, columns)

    def test_times_are_since_the_call_and_since_the_line_above(self) -> None:
        """What happened before the call has no time."""
        lines = self.printed(io.StringIO()).splitlines()
        self.assertRegex(lines[1], r"^ +before +phone +POST /api/android-device/: 201$")
        self.assertRegex(lines[2], r"^ +0\.0 ms +PBX +POST /api/incoming-call/$")
        self.assertRegex(lines[3], r"^ +500\.0 ms +\+500\.0 +PBX +gets 200")

    def test_a_folded_command_is_the_same_command(self) -> None:
        """A shell reads the lines of a narrow terminal as it reads the one line of a pipe."""
        out = Terminal()
        self.set_environ(TERM="dumb")
        Screen(out).command(CALL, indent=4)
        lines = out.getvalue()
        self.assertGreater(lines.count("\n"), 1)
        self.assertLess(max(map(len, lines.splitlines())), 80)
        self.assertEqual(shlex.split(lines.replace("\\\n", "")), shlex.split(CALL))
        pipe = io.StringIO()
        Screen(pipe).command(CALL, indent=4)
        self.assertEqual(pipe.getvalue(), f"    {CALL}\n")
