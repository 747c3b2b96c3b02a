"""The words for a boolean in requests, files and configurations."""

from __future__ import annotations

_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "1"), True),
    **dict.fromkeys(("false", "f", "no", "0"), False),
}


def parse_boolean(text: str) -> bool | None:
    """The boolean that ``text`` stands for, in any case; None: it is not one of the words."""
    return _WORDS.get(text.strip().lower())
