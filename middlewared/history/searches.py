"""
The statements that find calls, for every database here, and the marks of pages.

Each condition has an index in the schema that ends with the time, so the newest calls that
match are found without reading the others.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from itertools import product
from math import isfinite
from typing import TypeAlias

import attrs

from middlewared.errors import BadRequest
from middlewared.history.history_rows import CALL_COLUMNS, EVENT_COLUMNS, FACT_COLUMNS
from middlewared.history.interface import CallSearch
from middlewared.model import Platform

Condition: TypeAlias = tuple[str, tuple[object, ...]]
"""A part of a where clause, and its values."""

_COLUMNS = ", ".join(("id", *CALL_COLUMNS))
_FACTS = ", ".join(FACT_COLUMNS)
_ORDER = "order by started_at desc, id desc limit ?"
_PLATFORMS = (*(platform.value for platform in Platform), "none")
_TEXT_COLUMNS = ("sip_user_id", "call_id", "unique_key")
# Repeats what a partial index holds, so that SQLite uses it.
_INDEXED = {
    "call_id": " and call_id <> ''",
    "number": " and number <> ''",
    "outcome": " and outcome <> 'answered'",
}
MOST_FACTS = 10_000
"""Facts that are read for a page."""
_MOST_ID = 2**63

EVENTS = (
    f"select {', '.join(EVENT_COLUMNS)} from device_events"  # noqa: S608 (our own names)
    " where sip_user_id = ? order by at desc, id desc limit ?"
)
LAST_ANSWERED = """
    select started_at from calls
    where sip_user_id = ? and outcome in ('answered', 'unavailable')
    order by started_at desc limit 1
"""


@attrs.frozen
class PageMark:
    """The last call of a page, and whether the page was found by number."""

    started_at: float
    id: int
    by_number: bool = False

    def opaque(self) -> str:
        """The mark as clients pass it back."""
        text = json.dumps([self.started_at, self.id, self.by_number])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_mark(opaque: str) -> PageMark | None:
    """The mark of an opaque text; None for "". :raises BadRequest: it is not one of ours."""
    if not opaque:
        return None
    try:
        padded = opaque + "=" * (-len(opaque) % 4)
        started_at, id, by_number = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        mark = PageMark(float(started_at), int(id), bool(by_number))
    except (ValueError, TypeError, OverflowError):
        mark = None
    if mark is None or not (isfinite(mark.started_at) and 0 <= mark.id < _MOST_ID):
        raise BadRequest("before: not one that a page returned")
    return mark


def calls_statement(
    wanted: CallSearch, mark: PageMark | None, numbers: Sequence[str], oldest: float
) -> tuple[str, Sequence[object]]:
    """
    The statement of one page, which finds one call more than the page has, and its values.

    :param numbers: the caller's number in the forms in which it may be kept; none: any.
    :param oldest: nothing that started earlier is found.
    """
    common = list(_common(wanted, mark, oldest))
    texts, platforms = [list[Condition]()], [list[Condition]()]
    if numbers:
        texts = [[_equal("number", number)] for number in numbers]
    elif wanted.text:
        texts = [[_equal(column, wanted.text)] for column in _TEXT_COLUMNS]
    if wanted.app and not wanted.platform:
        platforms = [[_equal("platform", platform)] for platform in _PLATFORMS]
    parts = [
        _select([*text, *platform, *common], wanted.limit + 1)
        for text, platform in product(texts, platforms)
    ]
    if len(parts) == 1:
        return parts[0]
    # Short lists, each from its own index.
    union = " union ".join(f"select * from ({statement}) as part" for statement, _ in parts)  # noqa: S608
    values = [value for _, values in parts for value in values]
    return f"{union} {_ORDER}", [*values, wanted.limit + 1]


def _common(wanted: CallSearch, mark: PageMark | None, oldest: float) -> Iterator[Condition]:
    for column in ("sip_user_id", "call_id", "unique_key", "outcome", "app", "platform"):
        value: str = getattr(wanted, column)
        if value:
            yield _equal(column, value)
    yield "started_at >= ?", (max(oldest, wanted.since or 0.0),)
    if wanted.until is not None:
        yield "started_at < ?", (wanted.until,)
    if mark is not None:
        yield "(started_at, id) < (?, ?)", (mark.started_at, mark.id)


def _equal(column: str, value: str) -> Condition:
    indexed = "" if (column, value) == ("outcome", "answered") else _INDEXED.get(column, "")
    return f"{column} = ?{indexed}", (value,)


def _select(conditions: Sequence[Condition], limit: int) -> tuple[str, Sequence[object]]:
    where = " and ".join(text for text, _ in conditions)
    values = [value for _, values in conditions for value in values]
    return f"select {_COLUMNS} from calls where {where} {_ORDER}", [*values, limit]  # noqa: S608


def facts_statement(keys: int) -> str:
    """The statement that reads the facts of so many keys."""
    marks = ", ".join("?" * keys)
    return (
        f"select {_FACTS} from call_facts where unique_key in ({marks})"  # noqa: S608
        f" order by id limit {MOST_FACTS}"
    )
