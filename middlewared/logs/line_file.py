"""
A file that lines are appended to, in batches, by a thread of its own.

A line is either written whole and in order, or counted as lost. A full disk, or a reader
that does not read, costs lines; it never delays the writer or raises an exception there.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TypeAlias

from twisted.logger import Logger

MOST_BYTES = 4 << 20
"""What is queued for a disk that is full or slow; lines beyond it are lost."""
PATIENCE_S = 1.0
"""How long a file that accepts nothing may delay the end of the process, in all."""
RETRY_S = 1.0
_CHUNK_BYTES = 1 << 16

NextTurn: TypeAlias = Callable[[Callable[[], None]], object]


class LineFile:
    """
    Lines may come from any thread; they are queued until the file is opened. Until ``start``
    each is written at once. From then on a thread writes those of one reactor turn together:
    standard output may be shared with other processes, so its descriptor cannot be made
    non-blocking, and only a thread can wait for it.

    :param path: None: standard output.
    :param patience_s: how long ``stop`` and the lines after it may wait in all.
    """

    log = Logger()

    def __init__(self, path: Path | None, *, patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._file: io.FileIO | None = None
        self._next_turn: NextTurn | None = None
        # Reentrant: the garbage collector may run anywhere, and log something.
        lock = threading.RLock()
        self._work = threading.Condition(lock)
        self._rest = threading.Condition(lock)
        self._flushing = threading.RLock()
        # Lines and at most one file, to which the lines after it belong.
        self._waiting: deque[bytes | io.FileIO] = deque()
        self._waiting_bytes = 0
        self._begun = 0  # bytes of the first line that are written already
        self._scheduled = False
        self._inside = False
        self._thread: threading.Thread | None = None
        self._due = False
        self._busy = False
        self._closing = False
        self._lost = 0

    def open(self, path: Path | None, opened: io.FileIO | None = None) -> None:
        """
        Continue in ``path``, opened again (log rotation may have renamed it). Earlier lines go
        to the old file; those that it does not accept go to the new one.

        :param opened: its file, if the caller has opened it already.
        :raises OSError: it cannot be opened; the old file stays in use.
        """
        if path is None and self._path is None and self._file is not None:
            return
        opened = opened or open_to_append(path)
        with self._work:
            self._path = path
            self._follow(opened)
        if self._thread is None:
            self.flush()
        else:
            self._wake()

    def reopen(self) -> None:
        """Open the same path again; see :meth:`open`."""
        self.open(self._path)

    def start(self, next_turn: NextTurn) -> None:
        """
        Write in batches from now on, in a thread.

        :param next_turn: calls a function in the reactor's next turn, from any thread
            (``reactor.callFromThread``).
        """
        if self._thread is None:
            # A daemon thread: a write that hangs must not keep the process alive.
            self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
            self._thread.start()
        self._next_turn = next_turn

    def stop(self) -> None:
        """Wait until all is written, and from now on for each line, within ``patience_s``."""
        self._next_turn = None
        self.flush()

    def close(self) -> None:
        """Close the file once all that is queued is written; does not wait for that."""
        self._next_turn = None
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread is None:
            self._write_out()
            self._release()

    def write(self, line: str) -> None:
        """Append ``line``, given without its line end."""
        encoded = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._work:
            if self._waiting_bytes + len(encoded) > MOST_BYTES:
                self._lost += 1
                return
            self._waiting.append(encoded)
            self._waiting_bytes += len(encoded)
            next_turn = self._next_turn  # read once: another thread may call stop
            wake = next_turn is not None and not self._scheduled
            self._scheduled = self._scheduled or wake
        if next_turn is None:
            self.flush()
        elif wake:
            next_turn(self._wake)

    def flush(self) -> None:
        """Write all that is queued, as far as the file accepts it."""
        if self._thread is None:
            self._write_out()
        else:
            self._wait_for_thread()
        self._report_lost()

    def _wake(self) -> None:
        with self._work:
            self._scheduled = False
            self._due = True
            self._work.notify()

    def _wait_for_thread(self) -> None:
        with self._rest:
            self._wake()
            if threading.current_thread() is self._thread:  # logged by the garbage collector
                return
            while (self._due or self._busy) and self._patience_s > 0:
                began = monotonic()
                self._rest.wait(self._patience_s)
                self._patience_s -= monotonic() - began

    def _report_lost(self) -> None:
        with self._work:
            if self._waiting_bytes > MOST_BYTES // 2:
                return
            lost, self._lost = self._lost, 0
        if lost:
            self.log.error("{lost} lines were lost: the file could not be written", lost=lost)

    # In the thread; until it is started, in the thread of the caller.

    def _write_on(self) -> None:
        while True:
            with self._work:
                if not (self._due or self._closing):
                    self._work.wait(RETRY_S if self._waiting else None)
                self._due, self._busy, closing = False, True, self._closing
            self._write_out()
            with self._rest:
                self._busy = False
                self._rest.notify_all()
            if closing:
                self._release()
                return

    def _write_out(self) -> None:
        """Write what is queued until it is all written or the file accepts no more."""
        with self._flushing:
            if self._inside:  # the garbage collector logged while a line was being written
                return
            self._inside = True
            try:
                while (chunk := self._taken()) and (self._written(chunk) or self._next_file()):
                    pass
            finally:
                self._inside = False

    def _taken(self) -> bytes:
        """The next lines for one file; empty: there are none, or no file is open."""
        with self._work:
            if self._file is None or (self._waiting and isinstance(self._waiting[0], io.FileIO)):
                self._next_file()
            lines, size = [], 0
            while self._file is not None and self._waiting and size < _CHUNK_BYTES:
                line = self._waiting[0]
                if isinstance(line, io.FileIO):
                    break
                lines.append(line)
                size += len(line)
                self._waiting.popleft()
            return b"".join(lines)

    def _written(self, chunk: bytes) -> bool:
        """Write ``chunk``; what cannot be written now is queued again, in whole lines."""
        done = self._begun + self._sent(memoryview(chunk)[self._begun :])
        line = done if done == len(chunk) else chunk.rfind(b"\n", 0, done) + 1
        self._begun = done - line
        with self._work:
            self._waiting_bytes -= line
            if line < len(chunk):
                self._waiting.appendleft(chunk[line:])
            next_turn = self._next_turn
            relieved = self._lost and self._waiting_bytes <= MOST_BYTES // 2
        if relieved and next_turn is not None:
            next_turn(self._report_lost)
        return line == len(chunk)

    def _sent(self, data: memoryview) -> int:
        """Write ``data`` as far as the file accepts it; gives the number of bytes."""
        rest = data
        with suppress(OSError):
            while rest and self._file is not None:
                written = self._file.write(rest)
                if written is not None:
                    rest = rest[written:]
                elif self._thread is None or not _writable(self._file):
                    break  # another process has made it non-blocking
        return len(data) - len(rest)

    # Rotation.

    def _follow(self, opened: io.FileIO) -> None:
        """Write all lines from now on to ``opened``."""
        for place, item in enumerate(self._waiting):
            if isinstance(item, io.FileIO):  # of an earlier rotation not yet carried out
                self._waiting[place] = opened
                item.close()
                return
        self._waiting.append(opened)

    def _next_file(self) -> bool:
        """Switch to the queued file, if there is one, with all that the old one did not accept."""
        with self._work:
            opened = next((item for item in self._waiting if isinstance(item, io.FileIO)), None)
            if opened is None:
                return False
            self._waiting.remove(opened)
            old, self._file, self._begun = self._file, opened, 0
        if old is not None:
            with suppress(OSError):  # a network file system reports a full disk this late
                old.close()
        return True

    def _release(self) -> None:
        with self._work:
            old, self._file, self._thread, self._closing = self._file, None, None, False
        if old is not None:
            old.close()


def open_to_append(path: Path | None) -> io.FileIO:
    """
    Open ``path``; None: standard output.

    :raises OSError: it cannot be opened.
    """
    if path is None:
        # Not sys.stdout, which Twisted replaces with an object of its own.
        return io.FileIO(1, "w", closefd=False)
    return io.FileIO(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600))


def _writable(file: io.FileIO) -> bool:
    """Wait until a non-blocking descriptor accepts bytes, at most ``RETRY_S``."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return bool(poll.poll(RETRY_S * 1000))
