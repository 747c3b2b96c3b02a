"""
One connection to PostgreSQL, with deadlines.

A connection that was lost is closed, fires ``lost`` once, and is not opened again. A deadline
closes the connection instead of cancelling its query: libpq cancels over a second, blocking
connection, which a server that hangs delays for minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import psycopg2
import psycopg2.errors
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from txpostgres.txpostgres import Connection

from middlewared.database import Row
from middlewared.errors import DatabaseDown, MiddlewaredError
from middlewared.waiting import FairCall

# Unusual errors of a disk are InternalErrors.
_SERVER_FAULTS = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.InternalError)
MAX_REASON = 200
"""Characters of the server's text that are kept: it may quote a value that a client chose."""


class PostgresConnectionLost(MiddlewaredError):
    """
    The connection is closed; whether its statement was executed is not known.

    :ivar silent: whether the server only did not answer in time.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


@attrs.frozen
class QueryResult:
    """The rows of a statement, and how many rows it returned or changed."""

    rows: Sequence[Row]
    count: int


class PostgresConnection(Connection):  # type: ignore[misc]  # txpostgres has no types
    """
    A txpostgres connection that is opened once.

    :ivar lost: fires when the connection is closed for whatever reason.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.lost: Deferred[None] = Deferred()
        self.alive = True

    async def open(self, parameters: Mapping[str, str], timeout_s: float) -> None:
        """
        Connect.

        :raises PostgresConnectionLost: it failed; the text is fit for the log.
        """
        try:
            await self._bounded(self.connect(**parameters), timeout_s)
        except PostgresConnectionLost:
            raise
        except Exception as error:
            self.close()
            raise PostgresConnectionLost(first_line(error)) from error

    async def run(self, statement: str, values: Sequence[object], timeout_s: float) -> QueryResult:
        """
        Run one statement; no other may run on this connection meanwhile.

        :raises PostgresConnectionLost: the connection broke, or the server no longer accepts
            writes.
        :raises DatabaseDown: the server cannot execute it now.
        """
        try:
            cursor = self.cursor()
            await self._bounded(cursor.execute(statement, values or None), timeout_s)
            rows = cursor.fetchall() if cursor.description else []
            return QueryResult(rows, cursor.rowcount)
        # From None: libpq's text quotes the statement, and with it push tokens.
        except psycopg2.errors.ReadOnlySqlTransaction as error:
            # It became a standby: another host is the primary now.
            self.close()
            raise PostgresConnectionLost(first_line(error)) from None
        except _SERVER_FAULTS as error:
            if not self._connection.closed:
                raise DatabaseDown(f"the database failed: {first_line(error)}") from None
            self.close()
            raise PostgresConnectionLost(first_line(error)) from None

    async def _bounded(self, work: Deferred[Any], timeout_s: float) -> None:
        """Wait for ``work``; at the deadline, or when the waiter is cancelled, close."""
        done: Deferred[Any] = Deferred(lambda _: self.close())
        work.addBoth(lambda result: None if done.called else done.callback(result))
        timer = FairCall(self.reactor, timeout_s, self.close)
        try:
            await done
        except ConnectionDone as error:
            silent = not timer.active()
            raise PostgresConnectionLost(
                f"no answer in {timeout_s:.3g} s", silent=silent
            ) from error
        except CancelledError as error:
            # txpostgres raises it for QueryCanceled, the server's statement_timeout.
            raise DatabaseDown("the database was too slow") from error
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the connection now; a statement in progress fails."""
        if not self.alive:
            return
        self.alive = False
        # txpostgres leaves a running cursor in the reactor under a file descriptor that
        # the next connection reuses, and which the reactor then would not watch.
        for cursor in tuple(self._cursors):
            self.reactor.removeReader(cursor)
            self.reactor.removeWriter(cursor)
        if self._connection is not None:
            super().close()
        self.lost.callback(None)

    def doRead(self) -> Exception | None:
        """An idle connection that the server closes is lost, which is no unhandled error."""
        try:
            super().doRead()
        except (psycopg2.Error, ValueError) as error:  # or its file descriptor is gone
            return error
        return None

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.close()


def first_line(error: BaseException) -> str:
    """The first line of libpq's text: the others quote the statement with its values."""
    text = str(error).strip()
    return text.splitlines()[0][:MAX_REASON] if text else type(error).__name__
