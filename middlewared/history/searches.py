"""
The statements that find calls, for every database here, and the marks of pages.

Each condition has an index in the schema that ends with the time, so the newest calls that
match are found without reading the others. Of several conditions one is chosen for its index.

Indexes of columns with many values may have a part for each thousand calls; see
:class:`CallStatements`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import TypeAlias

import attrs

from middlewared.errors import BadRequest
from middlewared.history.history_rows import (
    CALL_COLUMNS,
    EVENT_COLUMNS,
    FACT_COLUMNS,
    FIGURE_COLUMNS,
)
from middlewared.history.interface import CallSearch
from middlewared.model import Platform

Condition: TypeAlias = tuple[str, tuple[object, ...]]
"""A part of a where clause, and its values."""

_COLUMNS = ", ".join(("id", *CALL_COLUMNS))
_FACTS = ", ".join(FACT_COLUMNS)
_USUAL = "answered"
"""The outcome that has no index, since most calls have it."""
_ORDER = "order by started_at desc, id desc limit ?"
_PLATFORMS = (*(platform.value for platform in Platform), "none")
_IN_PARTS = frozenset({"unique_key", "call_id", "sip_user_id", "number"})
"""Columns with many values, so that calls which follow each other are far apart in an index."""
_COLUMNS_WANTED = ("unique_key", "call_id", "sip_user_id", "outcome", "app", "platform")
_TEXT_COLUMNS = ("sip_user_id", "call_id", "unique_key")
# Repeats what a partial index holds, so that SQLite uses it.
_INDEXED = {
    "call_id": " and call_id <> '' and call_id <> unique_key",
    "number": " and number <> ''",
    "outcome": f" and outcome <> '{_USUAL}'",
}
MOST_FACTS = 10_000
"""Facts that are read for a page."""
_MOST_ID = 2**63

EVENTS = (
    f"select {', '.join(EVENT_COLUMNS)} from device_events"  # noqa: S608 (our own names)
    " where sip_user_id = ? order by at desc, id desc limit ?"
)
FIGURES = (
    f"select {', '.join(FIGURE_COLUMNS)} from call_figures"  # noqa: S608 (our own names)
    " where at >= ? order by at"
)


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


@attrs.frozen(kw_only=True)
class CallStatements:
    """
    Makes the statements of searches.

    :param unindexed: put before a column whose index must not be used. Without statistics of
        single values SQLite would prefer the index with more columns, however many calls match.
    :param part_bits: the indexes of :data:`_IN_PARTS` begin with the number of a part, which is
        ``id`` without this many low bits; 0: they begin with the column.
    """

    unindexed: str
    part_bits: int = 0

    @property
    def last_answered(self) -> str:
        """The statement that finds when the last call of an account started that was answered."""
        return (
            "select max(started_at) from calls"  # noqa: S608 (our own names)
            f" where {self._every_part}sip_user_id = ? and outcome in ('answered', 'unavailable')"
        )

    def page(
        self, wanted: CallSearch, mark: PageMark | None, numbers: Sequence[str], oldest: float
    ) -> tuple[str, Sequence[object]]:
        """
        The statement of one page, which finds one call more than the page has, and its values.

        :param numbers: the caller's number in the forms in which it may be kept; none: any.
        :param oldest: nothing that started earlier is found.
        """
        leading = list(_leading(wanted, numbers))
        common = [*self._filters(wanted, leading[0]), *_times(wanted, mark, oldest)]
        lists = [self._select(each, common, wanted.limit + 1) for each in leading]
        if len(lists) == 1:
            return lists[0]
        # Short lists, each from its own index.
        union = " union ".join(f"select * from ({statement}) as list" for statement, _ in lists)  # noqa: S608
        values = [value for _, values in lists for value in values]
        return f"{union} {_ORDER}", [*values, wanted.limit + 1]

    def _select(
        self, leading: Sequence[Condition], common: Sequence[Condition], limit: int
    ) -> tuple[str, Sequence[object]]:
        conditions = [*leading, *common]
        where = " and ".join(text for text, _ in conditions)
        values = [value for _, values in conditions for value in values]
        if self.part_bits and any(text.split()[0] in _IN_PARTS for text, _ in leading):
            # Parts overlap in time, so all calls that match are sorted; their ids and times are
            # in the index.
            found = f"select id from calls where {self._every_part}{where} {_ORDER}"  # noqa: S608
            where, values = f"id in ({found})", [*values, limit]
        return f"select {_COLUMNS} from calls where {where} {_ORDER}", [*values, limit]  # noqa: S608

    @property
    def _every_part(self) -> str:
        """The condition, before others, that a call is in one of the parts there are."""
        bits = self.part_bits
        if not bits:
            return ""
        parts = (
            f"with recursive part (n) as (select max(id) >> {bits} from calls union all"  # noqa: S608
            f" select n - 1 from part where n > (select min(id) >> {bits} from calls))"
            " select n from part"
        )
        return f"id >> {bits} in ({parts}) and "

    def _filters(self, wanted: CallSearch, leading: Sequence[Condition]) -> Iterator[Condition]:
        """The conditions for which calls are not looked up."""
        led = {text.split()[0] for text, _ in leading}
        for column in _COLUMNS_WANTED:
            value: str = getattr(wanted, column)
            if value and column not in led:
                yield f"{self.unindexed}{column} = ?", (value,)


def _leading(wanted: CallSearch, numbers: Sequence[str]) -> Iterator[Sequence[Condition]]:
    """
    The conditions whose index is used: those that fewest calls match. Several: calls that
    match one of them. An empty one: calls are looked up by time.
    """
    if wanted.unique_key:
        yield [_equal("unique_key", wanted.unique_key)]
    elif wanted.call_id:
        # One that is the key as well is only in the index of keys.
        yield from ([_equal(column, wanted.call_id)] for column in ("unique_key", "call_id"))
    elif wanted.sip_user_id:
        yield [_equal("sip_user_id", wanted.sip_user_id)]
    elif numbers:
        yield from ([_equal("number", number)] for number in numbers)
    elif wanted.text:
        yield from ([_equal(column, wanted.text)] for column in _TEXT_COLUMNS)
    elif wanted.outcome not in ("", _USUAL):
        yield [_equal("outcome", wanted.outcome)]
    elif wanted.app:
        for platform in [wanted.platform] if wanted.platform else _PLATFORMS:
            yield [_equal("app", wanted.app), _equal("platform", platform)]
    elif wanted.platform:
        yield [_equal("platform", wanted.platform)]
    else:
        yield []


def _times(wanted: CallSearch, mark: PageMark | None, oldest: float) -> Iterator[Condition]:
    yield "started_at >= ?", (max(oldest, wanted.since or 0.0),)
    if wanted.until is not None:
        yield "started_at < ?", (wanted.until,)
    if mark is not None:
        yield "(started_at, id) < (?, ?)", (mark.started_at, mark.id)


def _equal(column: str, value: str) -> Condition:
    return f"{column} = ?{_INDEXED.get(column, '')}", (value,)


def facts_statement(keys: int) -> str:
    """The statement that reads the facts of this many keys."""
    marks = ", ".join("?" * keys)
    return (
        f"select {_FACTS} from call_facts where unique_key in ({marks})"  # noqa: S608
        f" order by id limit {MOST_FACTS}"
    )
