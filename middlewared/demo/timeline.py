"""
A call's time-line for people to read.

Colours only where a person looks, which is a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TextIO

import attrs

_COLOURS = {"PBX": "36", "daemon": "34", "Apple": "35", "Google": "33", "phone": "32"}
_GOOD, _BAD, _BOLD = "32", "31", "1"


@attrs.frozen(order=True)
class Event:
    """``who`` did ``what`` at a time in epoch seconds."""

    at: float
    who: str
    what: str


class Timelines:
    """Prints time-lines to ``out``."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colours = out.isatty() and "NO_COLOR" not in os.environ

    def print(self, text: str = "", *, good: bool | None = None) -> None:
        """A line of text; ``good`` colours it."""
        if good is not None:
            text = self._coloured(text, _GOOD if good else _BAD)
        print(text, file=self._out, flush=True)

    def show(self, title: str, events: Iterable[Event]) -> None:
        """A title and the events below it, in milliseconds from the first."""
        ordered = sorted(events)
        self.print(self._coloured(title, _BOLD))
        for event in ordered:
            who = self._coloured(f"{event.who:<7}", _COLOURS.get(event.who, "0"))
            self.print(f"  {(event.at - ordered[0].at) * 1000:8.1f} ms  {who} {event.what}")

    def _coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text
