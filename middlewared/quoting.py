"""How texts from outside are shown in log lines and errors: cut, quoted, or as a fingerprint."""

from __future__ import annotations

import hashlib
import re

MOST_SHOWN = 64
"""Characters of a text from outside that a log line or an error shows."""
# Printable ASCII but blanks and quotes; a call_id may be so long.
_WORD = re.compile("[!#-&(-~]{1,255}")


def quoted(text: str, most: int = MOST_SHOWN) -> str:
    """
    ``text`` in quotes, with what cannot be printed escaped as ``repr`` does it.

    :param most: characters that are shown; an ellipsis of three dots stands for the rest.
    """
    return repr(text[:most]) + ("..." if len(text) > most else "")


def word(text: str) -> str:
    """``text`` as it is when it is one plain word, quoted otherwise: "a=b" lines stay legible."""
    return text if _WORD.fullmatch(text) else quoted(text)


def escaped(text: str) -> str:
    """
    ``text`` with each character escaped that cannot be printed: controls, line ends, the
    invisible ones that turn the direction of what follows, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def fingerprint(secret: str) -> str:
    """
    A short word by which log lines about the same token or key can be matched.

    Not for passwords: what can be guessed can be guessed from its fingerprint too.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:8]
