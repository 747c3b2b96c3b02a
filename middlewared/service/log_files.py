"""
The daemon's log and its file of app reports.

The one invariant: both are opened before anything is served, and again at each reload,
so that rotated files are let go.
"""

from __future__ import annotations

from middlewared.clock import WallClock
from middlewared.config import LogSettings
from middlewared.errors import ConfigError, Problem
from middlewared.logs import LogOutput, ReportFile
from middlewared.logs.line_file import NextTurn


class Logs:
    """Both outputs; ``output`` is a Twisted log observer."""

    def __init__(self, *, wall: WallClock) -> None:
        self.output = LogOutput()
        self.reports = ReportFile(wall=wall)

    def reload(self, settings: LogSettings) -> None:
        """
        Take ``settings`` and open the files anew.

        :raises ConfigError: a file cannot be opened; it goes on with the one it has.
        """
        try:
            self.output.reload(level=settings.level, format=settings.format, file=settings.file)
        except OSError as error:
            raise _unusable("file", settings.file, error) from error
        try:
            self.reports.reload(file=settings.metrics_file)
        except OSError as error:
            raise _unusable("metrics_file", settings.metrics_file, error) from error

    def start(self, next_turn: NextTurn) -> None:
        """Write in batches from now on."""
        self.output.start(next_turn)
        self.reports.start(next_turn)

    def stop(self) -> None:
        """Write all that waits, and each later line at once."""
        self.reports.stop()
        self.output.stop()


def _unusable(key: str, path: object, error: OSError) -> ConfigError:
    return ConfigError([Problem("log", key, f"{path}: {error.strerror}")])
