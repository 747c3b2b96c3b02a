"""
Tables and texts for a terminal.

What others wrote cannot move the cursor or turn the direction of a line: such characters are
shown as escapes.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime

from middlewared.quoting import escaped

WIDTH = 79


def write_line(line: str = "") -> None:
    """Print one line."""
    sys.stdout.write(line + "\n")


def shown(value: object) -> str:
    """A value as a cell shows it."""
    words: dict[object, str] = {True: "yes", False: "no", None: "never"}
    return escaped(words[value] if value is None or isinstance(value, bool) else str(value))


def table_row(cells: Mapping[str, object], widths: Mapping[str, int]) -> str:
    """The cells of the columns in ``widths``; a text that is too long moves the others."""
    return " ".join(f"{shown(cells[name]):<{width}}" for name, width in widths.items()).rstrip()


def wrapped(text: str) -> str:
    """A text of several sentences, escaped and broken into lines."""
    return textwrap.fill(escaped(text), WIDTH, break_on_hyphens=False)


def utc(epoch_s: float) -> str:
    """A time as tables show it, in UTC."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
