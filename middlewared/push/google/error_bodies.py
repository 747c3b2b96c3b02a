"""
Reading Google's responses, whatever their shape.

Nothing here raises because of what a peer sent, and no text of a peer becomes a reason
unless it is a plain word: a body may quote the push token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from middlewared.push import retry_after
from middlewared.push.interface import (
    ConfigFault,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)
from middlewared.push.retry_after import epoch_of

Refusal: TypeAlias = type[TokenDead | TokenSuspect | ConfigFault | Rejected | Temporary]


class GoogleReply(Protocol):
    """A response, over HTTP/1.1 or HTTP/2."""

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...

    @property
    def complete(self) -> bool:
        """Whether all of the body came."""

    def header(self, name: str) -> str | None:
        """The last value of a header; None: it is absent."""


_WORD = re.compile(r"[A-Za-z][A-Za-z_]{0,63}")
_MESSAGE_ID = re.compile(r"[!-~]{1,256}")


def refusal_of(table: Mapping[str | int, Refusal], code: str, status: int) -> Refusal:
    """What a refusal is: by its error code, else by its HTTP status, else by 5xx or not."""
    known = table.get(code) or table.get(status)
    return known or (Temporary if status >= 500 else Rejected)


def refused(kind: Refusal, reason: str, reply: GoogleReply, now: float) -> PushResult:
    """The result of a refused push; ``now`` in epoch seconds."""
    return Temporary(reason, retry_after_s(reply, now)) if kind is Temporary else kind(reason)


def json_object(reply: GoogleReply) -> dict[str, Any]:
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


def message_id(value: object) -> str:
    """``value`` if it can be a message id of Google's, else ""."""
    return value if isinstance(value, str) and _MESSAGE_ID.fullmatch(value) else ""


def retry_after_s(reply: GoogleReply, now: float) -> float | None:
    """Retry-After in seconds from ``now`` (epoch seconds); None when absent or unreadable."""
    text = reply.header("Retry-After") or ""
    return retry_after.retry_after_s(text, server_time(reply) or now)


def server_time(reply: GoogleReply) -> float | None:
    """Epoch seconds of the Date header; None when absent or unreadable."""
    return epoch_of(reply.header("Date") or "")
