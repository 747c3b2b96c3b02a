"""How log lines and errors show texts from outside: cut, quoted, or as a fingerprint."""

from __future__ import annotations

import hashlib
import re

MOST_SHOWN = 64
"""Characters of a text from outside that a log line or an error shows."""
# Printable ASCII without blanks and quotes; a call_id may have 255 characters.
_WORD = re.compile("[!#-&(-~]{1,255}")


def quoted(text: str, most: int = MOST_SHOWN) -> str:
    """
    ``text`` in quotes, with unprintable characters escaped as by ``repr``.

    :param most: how many characters are shown; three dots replace the rest.
    """
    return repr(text[:most]) + ("..." if len(text) > most else "")


def word(text: str) -> str:
    """``text`` itself if it is one plain word, else quoted: "a=b" lines stay unambiguous."""
    return text if _WORD.fullmatch(text) else quoted(text)


def escaped(text: str) -> str:
    """
    ``text`` with unprintable characters escaped: controls, line ends, invisible ones that
    change the direction of text, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def fingerprint(secret: str) -> str:
    """
    A short word that identifies a token or key in log lines.

    Not for passwords: a secret that can be guessed can be confirmed by its fingerprint.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:8]
