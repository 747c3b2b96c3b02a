"""
Reading what Google's servers answer, whatever its shape.

The one invariant: nothing here raises for what a peer sent, and no text a peer sent
becomes a reason unless it is a plain word: a body may quote the push token.
"""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from typing import Any

from middlewared.outgoing.interface import Reply

_WORD = re.compile(r"[A-Za-z][A-Za-z_]{0,63}")


def json_object(reply: Reply) -> dict[str, Any]:
    """The body as a JSON object; {} when it is anything else."""
    try:
        document = json.loads(reply.body) if reply.complete else None
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def as_object(value: object) -> dict[str, Any]:
    """``value`` if it is a JSON object, else {}."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list; [] when it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def word(value: object) -> str:
    """``value`` if it is a plain word, as error codes are, else ""."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def retry_after_s(reply: Reply, now: float) -> float | None:
    """Retry-After in seconds from now (RFC 9110, 10.2.3); None when absent or unreadable."""
    text = (reply.header("Retry-After") or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    at = _epoch(text)
    if at is None:
        return None
    return max(0.0, at - (server_time(reply) or now))


def server_time(reply: Reply) -> float | None:
    """Epoch seconds of the Date header, None when absent or unreadable."""
    return _epoch(reply.header("Date") or "")


def _epoch(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
