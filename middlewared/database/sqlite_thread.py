"""
One thread with one SQLite connection.

Requests that arrive while the disk is busy form a batch with one transaction, and no request
is answered before its transaction is over. The reactor's thread does all bookkeeping; the
other thread receives complete batches only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from middlewared.clock import Clock
from middlewared.errors import ConfigError, DatabaseDown
from middlewared.waiting import with_fair_timeout

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], Any]
WorkBatch: TypeAlias = list[tuple[Deferred[Any], Work]]


class ThreadReactor(Clock, Protocol):
    """The part of the reactor that a thread needs."""

    def callFromThread(
        self, callable: Callable[..., object], *args: object, **kw: object
    ) -> object:
        """Call ``callable`` soon in the reactor's thread."""


class ConnectionSource(Protocol):
    """Opens a thread's connection; called in that thread."""

    def open(self) -> sqlite3.Connection:
        """A connection that is ready for use, in autocommit mode."""

    def replaced(self) -> bool:
        """Whether the file is no longer the one that was opened last."""


class SqliteThread:
    """
    Runs work on the connection, batch after batch, in the order of arrival.

    :param begin: the statement that opens a batch's transaction; None: there is none, since
        each request is a single statement that reads. Every statement hands the
        interpreter's lock to the reactor's thread and back, which costs more than the
        statement itself.
    :param timeout_s: how long one request waits in all.
    :param capacity: how many requests may wait; more are refused at once.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: ThreadReactor,
        source: ConnectionSource,
        begin: str | None,
        timeout_s: float,
        capacity: int,
    ) -> None:
        self._reactor = reactor
        self._source = source
        self._begin = begin
        self._timeout_s = timeout_s
        self._capacity = capacity
        self._waiting: dict[Deferred[Any], Callable[[], Work]] = {}
        self._batches: SimpleQueue[WorkBatch | None] = SimpleQueue()
        self._busy = False
        self._scheduled = False
        self._started = False
        self._stopping = False
        self._stopped: Deferred[None] = Deferred()
        self._connection: sqlite3.Connection | None = None

    def start(self) -> None:
        """Start the thread; a daemon, since a hung disk must not keep the process alive."""
        self._started = True
        Thread(target=self._run_batches, name="middlewared-database", daemon=True).start()

    async def stop(self) -> None:
        """Finish what waits and close the connection; do not wait longer for a hung disk."""
        self._stopping = True
        if not self._started:
            return
        self._dispatch()
        try:
            await with_fair_timeout(self._stopped, self._timeout_s, self._reactor)
        except TimeoutError:
            self._log.warn("the database did not finish in time; left as it is")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """
        Do ``work`` in a transaction. Only the first of its statements that write may be
        refused for its data: earlier ones would not be rolled back.

        :return: the result of ``work``, after the commit.
        :raises DatabaseDown: the database failed, was too slow, or too many wait.
        :raises ConfigError: the database cannot be opened as it is configured.
        """
        return await self.run_prepared(lambda: work)

    async def run_prepared(self, prepare: Callable[[], Callable[[sqlite3.Connection], T]]) -> T:
        """:meth:`run` what ``prepare`` returns when the batch leaves for the thread."""
        if self._stopping:
            raise DatabaseDown("the database is closed")
        if len(self._waiting) >= self._capacity:
            raise DatabaseDown(f"{self._capacity} requests wait for the database already")
        done: Deferred[T] = Deferred(self._discard)
        self._waiting[done] = prepare
        self._dispatch_soon()
        return await with_fair_timeout(done, self._timeout_s, self._reactor, self._too_late)

    def _discard(self, cancelled: Deferred[Any]) -> None:
        self._waiting.pop(cancelled, None)

    def _too_late(self) -> NoReturn:
        raise DatabaseDown(f"the database did not answer in {self._timeout_s:g} s")

    def _dispatch_soon(self) -> None:
        """
        Dispatch a batch at the end of this turn of the reactor, with all requests that the
        turn brings: a batch costs several hand-overs of the interpreter's lock.
        """
        if not (self._busy or self._scheduled):
            self._scheduled = True
            self._reactor.callLater(0, self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._busy:
            return
        if self._waiting:
            batch = [(done, prepare()) for done, prepare in self._waiting.items()]
            self._waiting.clear()
            self._busy = True
            self._batches.put(batch)
        elif self._stopping:
            self._busy = True
            self._batches.put(None)

    def _finished(self, batch: WorkBatch, results: Sequence[Any]) -> None:
        self._busy = False
        self._dispatch()  # first: the disk works on while this batch is answered
        for (done, _), result in zip(batch, results, strict=True):
            if not done.called:
                done.callback(result)

    # All of the following runs in the other thread.

    def _run_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            results = self._results([work for _, work in batch])
            self._reactor.callFromThread(self._finished, batch, results)
        self._close()
        self._reactor.callFromThread(self._stopped.callback, None)

    def _results(self, works: Sequence[Work]) -> Sequence[Any]:
        try:
            return self._transaction(self._opened(), works)
        except ConfigError as error:
            failed: Exception = error
        except (sqlite3.Error, OSError) as error:
            failed = DatabaseDown(f"the database failed: {error}")
            failed.__cause__ = error
        except Exception as error:
            # Whatever it was: the requests are answered and the thread lives on.
            failed = error
        self._close()
        return [Failure(failed)] * len(works)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or self._source.replaced():
            self._close()
            self._connection = self._source.open()
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _transaction(self, connection: sqlite3.Connection, works: Sequence[Work]) -> Sequence[Any]:
        if self._begin is not None:
            connection.execute(self._begin)
        results = [self._result(connection, work) for work in works]
        if self._begin is not None:
            connection.execute("commit")
        return results

    def _result(self, connection: sqlite3.Connection, work: Work) -> Any:
        """Data that the database refuses fail their own request; a fault of the database all."""
        try:
            return work(connection)
        except (sqlite3.OperationalError, sqlite3.InternalError):
            raise
        except Exception as error:
            rolled_back = self._begin is not None and not connection.in_transaction
            if type(error) is sqlite3.DatabaseError or rolled_back:
                raise
            return Failure(error)
