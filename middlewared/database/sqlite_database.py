"""
One SQLite file and the threads that use it.

The reactor's thread never touches the file: a cold page or a stalled disk would stop every
held call. Reads and writes have a thread each, since a reader of a WAL database waits for no
commit: a call finds its device while registrations are being flushed. Queries over many rows
have a third thread, for which no call waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from middlewared.clock import Clock
from middlewared.database.sqlite_file import SqliteFile
from middlewared.database.sqlite_thread import SqliteThread, ThreadReactor
from middlewared.errors import ConfigError, DatabaseDown

T = TypeVar("T")

_CAPACITY = 5000


class SqliteDatabase:
    """
    Used between :meth:`start` and :meth:`stop`.

    :param path: the database file; its directory must exist.
    :param timeout_s: how long a request may take in all before it is DatabaseDown.
    :ivar clock: the reactor's.
    """

    def __init__(self, *, path: Path, reactor: ThreadReactor, timeout_s: float = 2.0) -> None:
        def thread(*, read_only: bool) -> SqliteThread:
            # SQLite waits for another process's lock at most half of a request's time, so
            # that a request which queued up behind such a wait still has the other half.
            return SqliteThread(
                reactor=reactor,
                source=SqliteFile(path, lock_wait_s=timeout_s / 2, read_only=read_only),
                begin=None if read_only else "begin immediate",
                timeout_s=timeout_s,
                capacity=_CAPACITY,
            )

        self.clock: Clock = reactor
        self._writer = thread(read_only=False)
        self._reader = thread(read_only=True)
        self._scanner = thread(read_only=True)

    async def start(self) -> None:
        """
        Open the file and bring its schema up to date.

        :raises ConfigError: it cannot be used as configured, or a newer release used it.
        :raises DatabaseDown: it cannot be used now; later requests try again.
        """
        self._writer.start()
        self._reader.start()
        self._scanner.start()
        await self._writer.run(lambda _: None)

    async def stop(self) -> None:
        """Finish what waits, then close the file."""
        await self._scanner.stop()
        await self._reader.stop()
        await self._writer.stop()

    async def read(self, prepare: Callable[[], Callable[[sqlite3.Connection], T]]) -> T:
        """
        Run a single statement that reads, and for which a call waits.

        :param prepare: returns the work, as late as possible.
        """
        return await _run(self._reader, prepare)

    async def scan(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a single statement that reads and may be slow; no call waits for it."""
        return await _run(self._scanner, lambda: work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run ``work`` in a transaction; see :meth:`.sqlite_thread.SqliteThread.run`.

        :return: its result, after the commit.
        :raises DatabaseDown: the database failed, was too slow, or too many wait.
        """
        return await _run(self._writer, lambda: work)


async def _run(thread: SqliteThread, prepare: Callable[[], Callable[[sqlite3.Connection], T]]) -> T:
    """Once the daemon runs, a file that became unusable is an outage like any other."""
    try:
        return await thread.run_prepared(prepare)
    except ConfigError as error:
        raise DatabaseDown(str(error)) from error
