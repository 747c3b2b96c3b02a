"""
How an event is formatted in the log: as a line of text, or as one JSON object.

An event is exactly one line (in text, its traceback follows, indented), whatever its fields
contain, so no one can forge a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from math import isfinite
from typing import TypeAlias

from twisted.logger import LogEvent, formatEvent
from twisted.python.failure import Failure

from middlewared.clock import iso_time
from middlewared.logs.interface import LazyField
from middlewared.logs.redaction import HIDDEN, redacted, secret_name
from middlewared.quoting import escaped

LONGEST = 10_000
"""Characters of a message, a field or a traceback; the rest is cut off."""

MOST_ENTRIES = 1000
"""Of a list or a mapping; the rest is cut off."""

Format: TypeAlias = Callable[[LogEvent], str]
# What events of the old twisted.python.log carry in addition to their text.
_LEGACY = frozenset(("message", "isError", "why", "failure", "format", "system", "logLevel"))


def format_text(event: LogEvent) -> str:
    """``TIME LEVEL NAMESPACE MESSAGE``, and below it the traceback, indented."""
    head = _head(event)
    line = f"{head['time']} {head['level']} {head['namespace']} {head['message']}"
    traceback = _traceback(event)
    return escaped(line) + "".join(f"\n    {escaped(row)}" for row in traceback.splitlines())


def format_json(event: LogEvent, daemon: str) -> str:
    """One object: time, level, namespace, message, daemon, the event's own fields, traceback."""
    written: dict[str, object] = {"daemon": daemon}
    for name, value in event.items():
        if not name.startswith("log_") and name not in _LEGACY:
            written[name] = HIDDEN if secret_name(name) else _plain(value)
    written.update(_head(event))
    if traceback := _traceback(event):
        written["traceback"] = traceback
    return json.dumps(written)


def _head(event: LogEvent) -> Mapping[str, str]:
    level = event.get("log_level")
    return {
        "time": iso_time(event.get("log_time", 0.0)),
        "level": getattr(level, "name", "info"),
        "namespace": str(event.get("log_namespace", "-")),
        "message": redacted(_message(event)[:LONGEST]),
    }


def _message(event: LogEvent) -> str:
    # str.format suits nearly every event and is ten times as fast as Twisted's formatEvent,
    # which supports more ({x()}, old events) and never fails.
    template = event.get("log_format")
    if isinstance(template, str):
        try:
            return template.format_map(event)
        except Exception:
            return formatEvent(event)
    return formatEvent(event)


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return redacted(failure.getTraceback()[-LONGEST:]) if isinstance(failure, Failure) else ""


def _plain(value: object) -> object:
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, list):
        return [_plain(each) for each in value[:MOST_ENTRIES]]
    if isinstance(value, dict):
        pairs = islice(value.items(), MOST_ENTRIES)
        return {str(name): HIDDEN if secret_name(str(name)) else _plain(e) for name, e in pairs}
    if isinstance(value, LazyField):
        return _plain(value.make())
    return redacted(str(value)[:LONGEST])
