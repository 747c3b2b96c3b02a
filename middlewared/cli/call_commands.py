"""
``middlewared calls``: which calls there were, and what happened to one of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from middlewared.cli.storage_access import with_storage
from middlewared.cli.tables import shown, table_row, utc, wrapped, write_line
from middlewared.clock import iso_time
from middlewared.config import Config
from middlewared.errors import MiddlewaredError
from middlewared.history.call_story import duration, kept_story
from middlewared.history.interface import CallSearch, HistoryReader, KeptCall
from middlewared.history.json_forms import JsonForms
from middlewared.service.storage import Storage

_PAGE = 100
_COLUMNS = {"start (UTC)": 14, "account": 9, "outcome": 11, "caller": 6, "unique_key": 0}
"""The columns of the table: with a UUID of 36 characters it has 80."""
_LAST_DIGITS = 6


class NoCall(MiddlewaredError):
    """No such call is kept."""


def list_calls(config: Config, wanted: CallSearch, *, as_json: bool) -> int:
    """Print the newest calls that match, at most ``wanted.limit`` of them."""

    columns, forms = _columns(config), _forms(config)

    def line(call: KeptCall) -> str:
        return json.dumps(forms.call(call)) if as_json else call_row(call, columns)

    async def work(storage: Storage) -> int:
        _note_if_off(config)
        if not as_json:
            write_line(table_row({name: name for name in columns}, columns))
        more = await _print_pages(storage.history, wanted, line)
        if more and not as_json:
            _note(f"the newest {wanted.limit} calls; --limit N shows more")
        return 0

    return with_storage(config, work)


def show_call(config: Config, wanted: CallSearch, *, as_json: bool) -> int:
    """Print the newest call that matches. :raises NoCall: there is none."""

    async def work(storage: Storage) -> int:
        _note_if_off(config)
        page = await storage.history.search(attrs.evolve(wanted, limit=1))
        if not page.calls:
            raise NoCall("no such call is kept")
        if as_json:
            write_line(json.dumps(_forms(config).call(page.calls[0])))
        else:
            for line in call_lines(page.calls[0]):
                write_line(line)
        return 0

    return with_storage(config, work)


def _forms(config: Config) -> JsonForms:
    return JsonForms(text_accounts=config.accounts.are_texts)


def _columns(config: Config) -> Mapping[str, int]:
    """The columns of the table, with the PBX's name where PBXs have names."""
    if not config.pbxs:
        return _COLUMNS
    width = max(len("pbx"), *(len(pbx.name) for pbx in config.pbxs))
    *columns, last = _COLUMNS.items()
    return dict([*columns, ("pbx", width), last])


async def _print_pages(
    history: HistoryReader, wanted: CallSearch, line: Callable[[KeptCall], str]
) -> bool:
    """Print page after page; whether there are more calls than wanted."""
    left, before = wanted.limit, ""
    while left:
        page = await history.search(attrs.evolve(wanted, limit=min(left, _PAGE), before=before))
        for call in page.calls:
            write_line(line(call))
        if page.next is None:
            return False
        left, before = left - len(page.calls), page.next
    return True


def call_row(call: KeptCall, columns: Mapping[str, int] = _COLUMNS) -> str:
    """A call as a line of the table of calls."""
    record = call.record
    number = record.phonenumber
    cells = {
        "start (UTC)": utc(record.start)[len("2026-") :],
        "account": record.sip_user_id,
        "outcome": record.outcome,
        "caller": f"…{number[1 - _LAST_DIGITS :]}" if len(number) > _LAST_DIGITS else number or "-",
        "pbx": record.pbx or "-",
        "unique_key": record.unique_key,
    }
    return table_row(cells, columns)


def call_table(calls: Sequence[KeptCall]) -> Iterator[str]:
    """A table of calls, with its head."""
    yield table_row({name: name for name in _COLUMNS}, _COLUMNS)
    yield from map(call_row, calls)


def call_lines(call: KeptCall) -> Iterator[str]:
    """A call: its fields, the verdict, and what happened when."""
    record = call.record
    app = f"{record.app} ({record.platform})" if record.app else "no device"
    caller = " ".join(filter(None, (record.phonenumber, record.caller_id)))
    fields = {
        "unique_key": record.unique_key,
        "call_id": record.call_id,
        "sip_user_id": record.sip_user_id,
        "app": app,
        "token": record.token,
        "caller": caller,
        "daemon": call.daemon,
        **({"pbx": record.pbx} if record.pbx else {}),
        "start": iso_time(record.start),
        "outcome": record.outcome,
    }
    for name, value in fields.items():
        yield f"{name:<12} {shown(value or '-')}"
    yield ""
    yield wrapped(call.verdict)
    yield ""
    for moment in kept_story(call):
        details = f", {moment.details}" if moment.details else ""
        yield f"{duration(moment.after_ms):>10}  {shown(moment.what + details)}"


def _note_if_off(config: Config) -> None:
    if not config.history.days:
        _note("the history is off: [history] days = 0")


def _note(text: str) -> None:
    """A line for people, apart from what programs read."""
    sys.stdout.flush()
    print(text, file=sys.stderr)  # noqa: T201
