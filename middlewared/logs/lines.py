"""
A file that lines are appended to, many at a time.

The one invariant: a line is either written whole and in order, or counted as lost; a
full disk costs lines, never an exception to who writes.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from twisted.logger import Logger

MOST_BYTES = 4 << 20
"""What may wait for a disk that is full or slow; lines above it are lost."""

NextTurn: TypeAlias = Callable[[Callable[[], None]], object]


class LineFile:
    """
    Lines may come from any thread, and wait until the file is opened. Until ``start`` and
    after ``stop`` each is written at once; in between all of a reactor's turn together.

    :param path: None: standard output.
    """

    log = Logger()

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: io.RawIOBase | None = None
        self._next_turn: NextTurn | None = None
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._scheduled = False
        self._lost = 0

    def open(self, path: Path | None) -> None:
        """
        Go on at ``path``, opened anew (it may have been renamed: log rotation).

        :raises OSError: it cannot be opened; then the old file stays in use.
        """
        # Twisted puts an object of its own in the place of sys.stdout: speak to descriptor 1.
        opened = io.FileIO(1, "w", closefd=False) if path is None else io.FileIO(path, "a")
        self.flush()
        with self._flushing:
            old, self._file, self._path = self._file, opened, path
        if old is not None:
            old.close()

    def reopen(self) -> None:
        """Open the same path anew; see :meth:`open`."""
        self.open(self._path)

    def start(self, next_turn: NextTurn) -> None:
        """
        Write in batches from now on.

        :param next_turn: calls a function in the reactor's next turn, from any thread
            (``reactor.callFromThread``).
        """
        self._next_turn = next_turn

    def stop(self) -> None:
        """Write all that waits, and each later line at once."""
        self._next_turn = None
        self.flush()

    def close(self) -> None:
        """Write all that waits and give the file up; later lines wait for an ``open``."""
        self.stop()
        with self._flushing:
            old, self._file = self._file, None
        if old is not None:
            old.close()

    def write(self, line: str) -> None:
        """Append ``line``, which has no line end."""
        encoded = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._waiting_bytes + len(encoded) > MOST_BYTES:
                self._lost += 1
                return
            self._waiting.append(encoded)
            self._waiting_bytes += len(encoded)
            scheduled, self._scheduled = self._scheduled, True
        next_turn = self._next_turn  # another thread may stop us in between
        if next_turn is None:
            self.flush()
        elif not scheduled:
            next_turn(self.flush)

    def flush(self) -> None:
        """Write all that waits, as far as the disk lets us."""
        with self._flushing:
            with self._lock:
                data, self._waiting = b"".join(self._waiting), []
                self._waiting_bytes = 0
                self._scheduled = False
            rest = self._written(data)
            with self._lock:
                if rest:
                    self._waiting.insert(0, rest)
                    self._waiting_bytes += len(rest)
                lost, self._lost = (self._lost, 0) if not rest else (0, self._lost)
        if lost:
            self.log.error("{lost} lines were lost: the file could not be written", lost=lost)

    def _written(self, data: bytes) -> bytes:
        """Write ``data``; gives what could not be written now."""
        rest = memoryview(data)
        # A full disk, a pipe that is not read: the next flush tries again.
        with suppress(OSError):
            while rest and self._file is not None:
                written = self._file.write(rest)
                if written is None:  # would block
                    break
                rest = rest[written:]
        return bytes(rest)
