"""What other parts know of the log: how repeated lines are counted."""

from __future__ import annotations

from typing import Protocol


class RepeatCounter(Protocol):
    """
    For lines that anyone can provoke at will.

    ``kind`` is the text of such a line or what lines have in common. Texts from outside are
    cut and quoted in it (:func:`middlewared.quoting.quoted`).
    """

    def count(self, kind: str) -> None:
        """Log ``kind`` at info, or count it where it was logged just before."""

    def is_first(self, kind: str) -> bool:
        """Whether a line of this ``kind`` is to be logged by the caller; else it was counted."""
