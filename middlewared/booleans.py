"""How a boolean is written in requests, files and configurations."""

from __future__ import annotations

_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}


def parse_boolean(text: str) -> bool | None:
    """The boolean that ``text`` stands for, in any case; None: it stands for none."""
    return _WORDS.get(text.strip().lower())
