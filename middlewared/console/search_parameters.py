"""
The parameters of a search, from the query of a request. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from middlewared.errors import BadRequest
from middlewared.history.interface import HUNG_UP, CallSearch
from middlewared.model import Outcome, Platform

OUTCOMES = tuple(dict.fromkeys((*(outcome.value for outcome in Outcome), "cancelled", HUNG_UP)))
PLATFORMS = (*(platform.value for platform in Platform), "none")
MOST_CALLS = 500
"""Calls of a page: more take longer than the event loop has between two calls."""
_LONGEST = 255
_MOST_FIELDS = 20


def query_texts(query: bytes) -> Mapping[str, str]:
    """
    The parameters of a query; of a repeated one the last.

    :raises BadRequest: it is not UTF-8, or has far too many.
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise BadRequest("the query is malformed") from None
    return dict(pairs)


def call_search(texts: Mapping[str, str], *, lenient: bool = False) -> CallSearch:
    """
    The search that a query asks for.

    :param lenient: of a form of ours: ``q`` is the search box, and empty ones were not filled in.
    :raises BadRequest: names the parameter that is unknown or cannot be read.
    """
    values: dict[str, Any] = {}
    for name, text in texts.items():
        field, parse = _FIELDS.get(name) or ("", _text)
        if not field or (field == "text") is not (name == "q" and lenient):
            raise BadRequest(f"{name[:_LONGEST]}: no such parameter")
        if text or not (lenient or parse in (_text, _opaque)):
            values[field] = parse(name, text.strip() if lenient else text)
    return CallSearch(or_number="text" in values, **values)


def _text(name: str, text: str) -> str:
    if len(text) > _LONGEST or "\0" in text:
        raise BadRequest(f"{name}: must have at most {_LONGEST} characters")
    return text


def _opaque(name: str, text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]*", text[:1000]) or len(text) > 1000:
        raise BadRequest(f"{name}: not one that a page returned")
    return text


def _one_of(*known: str) -> Callable[[str, str], str]:
    def parse(name: str, text: str) -> str:
        if text not in known:
            raise BadRequest(f"{name}: must be one of {', '.join(known)}")
        return text

    return parse


def _time(name: str, text: str) -> float:
    # The + of an offset is a blank unless it was written as %2B.
    written = re.sub(r" (?=[0-9]{2}:?[0-9]{2}$)", "+", text)
    try:
        moment = datetime.fromisoformat(written)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadRequest(f"{name}: must be a time in ISO 8601, as 2026-11-29T12:00:00Z") from None


def _limit(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_CALLS):
        raise BadRequest(f"{name}: must be 1 to {MOST_CALLS}")
    return int(text[:9])


_FIELDS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "q": ("text", _text),
    "sip_user_id": ("sip_user_id", _text),
    "call_id": ("call_id", _text),
    "unique_key": ("unique_key", _text),
    "outcome": ("outcome", _one_of(*OUTCOMES)),
    "app": ("app", _text),
    "platform": ("platform", _one_of(*PLATFORMS)),
    "since": ("since", _time),
    "until": ("until", _time),
    "limit": ("limit", _limit),
    "before": ("before", _opaque),
}
