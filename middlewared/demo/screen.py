"""
What the demo prints: colours where a person wants them, and lines that fit the terminal.
"""

from __future__ import annotations

import enum
import os
import shutil
import textwrap
from typing import TextIO

_NARROWEST = 60
"""A terminal with fewer columns breaks lines itself."""
_WIDTH_OF_FILES = 80


class Style(enum.Enum):
    """How a text looks, as parameters of the ANSI sequence SGR."""

    PLAIN = ""
    BOLD = "1"
    FAINT = "2"
    RED = "31"
    GREEN = "32"
    MAGENTA = "35"
    CYAN = "36"


class Screen:
    """
    Prints to ``out``.

    There are colours if it is a terminal, unless it is a dumb one or NO_COLOR is set
    (https://no-color.org).
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._has_colours = (
            self._is_terminal
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )

    @property
    def width(self) -> int:
        """How long a line may be, now: a terminal's last column stays free."""
        columns = shutil.get_terminal_size().columns if self._is_terminal else _WIDTH_OF_FILES
        return max(_NARROWEST, columns) - 1

    def styled(self, text: str, style: Style) -> str:
        """``text`` as it is printed in a style."""
        if not self._has_colours or style is Style.PLAIN:
            return text
        return f"\x1b[{style.value}m{text}\x1b[0m"

    def line(self, text: str = "", style: Style = Style.PLAIN) -> None:
        """Print one line, however long it is."""
        print(self.styled(text, style), file=self._out, flush=True)

    def text(self, text: str, style: Style = Style.PLAIN, *, indent: int = 0) -> None:
        """Print a paragraph below ``indent`` blanks."""
        for line in self.wrapped(text, indent):
            self.line(f"{' ' * indent}{line}", style)

    def wrapped(self, text: str, indent: int) -> list[str]:
        """The lines of a paragraph that begin at the column ``indent``."""
        room = self.width - indent
        return textwrap.wrap(text, room, break_on_hyphens=False) or [""]

    def command(self, command: str, *, indent: int) -> None:
        """
        Print a command for a shell, which stays one when it is copied.

        A terminal that is too narrow gets it in several lines, each of which ends in a backslash.
        """
        lines = self._folded(command, self.width - indent) if self._is_terminal else [command]
        for line in lines:
            self.line(" " * indent + self.styled(line, Style.CYAN))

    @staticmethod
    def _folded(command: str, room: int) -> list[str]:
        first, *options = command.replace(" -d ", "\n-d ").split("\n")
        lines = [first]
        for option in options:
            if len(lines[-1]) + len(option) + 3 <= room:  # with a blank and the next backslash
                lines[-1] += f" {option}"
            else:
                lines[-1] += " \\"
                lines.append(f"  {option}")
        return lines
