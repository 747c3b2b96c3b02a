"""
The file of apps' reports to /api/log-metrics/: one JSON object a line, with time and account.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from middlewared.clock import WallClock, iso_time
from middlewared.logs.line_file import LineFile, NextTurn
from middlewared.model import SipUserId

MOST_FIELDS = 64
LONGEST_NAME = 64
LONGEST_VALUE = 1000


def bounded(fields: Mapping[str, str]) -> Mapping[str, str]:
    """The part of a report that is kept; its client chose the names and values."""
    return {
        name[:LONGEST_NAME]: value[:LONGEST_VALUE]
        for name, value in islice(fields.items(), MOST_FIELDS)
    }


class ReportFile:
    """Appends reports to a file. Call ``reload`` before use, and again on SIGHUP."""

    def __init__(self, *, wall: WallClock) -> None:
        self._wall = wall
        self._lines: LineFile | None = None
        self._next_turn: NextTurn | None = None

    def reload(self, *, file: Path | None, opened: io.FileIO | None = None) -> None:
        """
        Open ``file``, again if it is open, and write to it; None: write nowhere.

        :param opened: ``file``, if the caller has opened it already.
        :raises OSError: the file cannot be opened; nothing changes.
        """
        if file is None:
            if self._lines is not None:
                self._lines.close()
            self._lines = None
            return
        if self._lines is not None:
            self._lines.open(file, opened)
            return
        lines = LineFile(file)
        lines.open(file, opened)
        if self._next_turn is not None:
            lines.start(self._next_turn)
        self._lines = lines

    def start(self, next_turn: NextTurn) -> None:
        """Write in batches; see :meth:`.line_file.LineFile.start`."""
        self._next_turn = next_turn
        if self._lines is not None:
            self._lines.start(next_turn)

    def stop(self) -> None:
        """Write all that is queued, and from now on each line at once."""
        self._next_turn = None
        if self._lines is not None:
            self._lines.stop()

    def write(self, sip_user_id: SipUserId, fields: Mapping[str, str]) -> None:
        """Write a report, which is :func:`bounded` already."""
        if self._lines is not None:
            time = iso_time(self._wall())
            self._lines.write(json.dumps({**fields, "time": time, "sip_user_id": sip_user_id}))
