"""
The daemon's log and its file of app reports.

Both are opened before anything is served, and again at each reload, so that rotated files are
released.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from middlewared.clock import WallClock
from middlewared.config import LogSettings
from middlewared.errors import ConfigError, Problem
from middlewared.logs import LogOutput, ReportFile
from middlewared.logs.line_file import NextTurn, open_to_append
from middlewared.service.daemon_name import daemon_name


@attrs.frozen
class OpenedLogs:
    """The files of ``settings``, which are not written to yet; ``reports`` None: there is none."""

    settings: LogSettings
    log: io.FileIO
    reports: io.FileIO | None

    def close(self) -> None:
        """Give the files up without having used them."""
        self.log.close()
        if self.reports is not None:
            self.reports.close()


class LogFiles:
    """Both outputs; ``output`` is a Twisted log observer."""

    def __init__(self, *, wall: WallClock) -> None:
        self.output = LogOutput(daemon=daemon_name())
        self.reports = ReportFile(wall=wall)

    def open(self, settings: LogSettings) -> OpenedLogs:
        """
        Open both files, and change nothing yet.

        :raises ConfigError: one cannot be opened; the other is closed again.
        """
        with _named("file", settings.file):
            log = open_to_append(settings.file)
        if settings.metrics_file is None:
            return OpenedLogs(settings, log, None)
        try:
            with _named("metrics_file", settings.metrics_file):
                return OpenedLogs(settings, log, open_to_append(settings.metrics_file))
        except ConfigError:
            log.close()
            raise

    def use(self, opened: OpenedLogs) -> None:
        """Write to the files of ``opened`` from now on, as its settings require."""
        settings = opened.settings
        self.output.reload(
            level=settings.level, format=settings.format, file=settings.file, opened=opened.log
        )
        self.reports.reload(file=settings.metrics_file, opened=opened.reports)

    def reopen(self, settings: LogSettings) -> None:
        """
        Open the files again, which may have been renamed; the log first, whatever follows.

        :raises ConfigError: a file cannot be opened; the one in use stays.
        """
        with _named("file", settings.file):
            self.output.reload(level=settings.level, format=settings.format, file=settings.file)
        with _named("metrics_file", settings.metrics_file):
            self.reports.reload(file=settings.metrics_file)

    def start(self, next_turn: NextTurn) -> None:
        """Write in batches from now on."""
        self.output.start(next_turn)
        self.reports.start(next_turn)

    def stop(self) -> None:
        """Write all that waits, and each later line at once."""
        self.reports.stop()
        self.output.stop()


@contextmanager
def _named(key: str, path: Path | None) -> Iterator[None]:
    """Name the key whose file cannot be opened."""
    try:
        yield
    except OSError as error:
        raise ConfigError([Problem("log", key, f"{path}: {error.strerror}")]) from error
