"""
The observer that writes the log.

twistd finds it as the application's ILogObserver component, so it is the only observer, from
twistd's first line on::

    class Top(MultiService):
        def setServiceParent(self, parent):
            if isinstance(parent, Componentized):
                parent.setComponent(ILogObserver, self._log_output)
            super().setServiceParent(parent)

It never raises. A line in its place reports an event that cannot be formatted.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

from middlewared.logs.formats import Format, format_json, format_text
from middlewared.logs.line_file import LineFile, NextTurn

_RANKS = {level.name: rank for rank, level in enumerate(LogLevel.iterconstants())}
# Twisted logs these of our factories in our own namespace.
_NOISE = frozenset(("Starting factory {factory!r}", "Stopping factory {factory!r}"))


@implementer(ILogObserver)
class LogOutput:
    """
    Writes events of a level and above. Events of libraries at info count as debug.

    Call ``reload`` once before use, and again on SIGHUP; ``start`` when the reactor runs and
    ``stop`` when it stops.

    :param daemon: the name of the process, which every JSON object has.
    """

    def __init__(self, *, daemon: str) -> None:
        self._formats: dict[str, Format] = {
            "text": format_text,
            "json": partial(format_json, daemon=daemon),
        }
        self._lines = LineFile(None)
        self._least = _RANKS["info"]
        self._format: Format = format_text

    def reload(
        self, *, level: str, format: str, file: Path | None, opened: io.FileIO | None = None
    ) -> None:
        """
        Take new settings, and open the file again (log rotation).

        :param level: debug, info, warn, error or critical.
        :param format: text or json.
        :param file: None: standard output.
        :param opened: ``file``, if the caller has opened it already.
        :raises OSError: the file cannot be opened; nothing changes.
        """
        self._lines.open(file, opened)
        self._least, self._format = _RANKS[level], self._formats[format]

    def start(self, next_turn: NextTurn) -> None:
        """Write in batches; see :meth:`.line_file.LineFile.start`."""
        self._lines.start(next_turn)

    def stop(self) -> None:
        """Write all that is queued, and from now on each line at once."""
        self._lines.stop()

    def close(self) -> None:
        """Close the file. Only for tests: a program's last lines still need it."""
        self._lines.close()

    def __call__(self, event: LogEvent) -> None:
        """Write ``event``, if its level is high enough."""
        if _rank(event) < self._least:
            return
        try:
            line = self._format(event)
        except Exception as e:
            line = self._format(_unwritable(event, e))
        self._lines.write(line)


def _unwritable(event: LogEvent, error: Exception) -> LogEvent:
    return {
        "log_time": event.get("log_time", 0.0),
        "log_level": LogLevel.error,
        "log_namespace": event.get("log_namespace", "-"),
        "log_format": "an event could not be written: {error}",
        "error": type(error).__name__,
    }


def _rank(event: LogEvent) -> int:
    level = event.get("log_level")
    rank = _RANKS.get(getattr(level, "name", "info"), _RANKS["info"])
    if rank == _RANKS["info"] and (
        not str(event.get("log_namespace", "")).startswith("middlewared")
        or event.get("log_format") in _NOISE
    ):
        return _RANKS["debug"]
    return rank
