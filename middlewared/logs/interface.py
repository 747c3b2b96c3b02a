"""What other rooms know of the log: how repeated lines are counted, and costly fields left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs


@attrs.frozen
class LazyField:
    """A field of an event that only JSON has: ``make`` is called when it is written."""

    make: Callable[[], object]


class RepeatCounter(Protocol):
    """
    For lines that anyone can cause at will.

    ``kind`` is the text of such a line, or what several lines have in common. Texts from
    outside are cut and quoted in it (:func:`middlewared.quoting.quoted`).
    """

    def count(self, kind: str) -> None:
        """Log ``kind`` at info, or count it if it was logged just before."""

    def is_first(self, kind: str) -> bool:
        """Whether the caller must log a line of this ``kind``; otherwise it was counted."""
