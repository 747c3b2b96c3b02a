"""
One connection to PostgreSQL, with deadlines and a certain end.

The one invariant: a link that was lost is closed, says so once, and never lives again.
Nothing here cancels a query: libpq does that over a second, blocking connection, which
a stopped server holds up for minutes. A deadline closes the link instead.
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

from middlewared.devices.queries import Row
from middlewared.errors import DatabaseDown, MiddlewaredError
from middlewared.waiting import FairCall

# InternalError is what a disk's unusual errors come as.
_SERVER_FAULTS = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.InternalError)


MOST_WORDS = 200
"""Characters of the server's text, which may quote a value that a client chose."""


class LinkLost(MiddlewaredError):
    """
    The link is closed; whether its statement was done is not known.

    :ivar silent: whether the server just did not answer in time.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


@attrs.frozen
class Result:
    """What a statement gave, and how many rows it returned or changed."""

    rows: Sequence[Row]
    count: int


class PostgresConnection(Connection):  # type: ignore[misc]  # txpostgres has no types
    """
    A txpostgres connection that is used once.

    :ivar lost: fires once, when the link is closed for whatever reason.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.lost: Deferred[None] = Deferred()
        self.alive = True

    async def open(self, parameters: Mapping[str, str], timeout_s: float) -> None:
        """
        Connect, once.

        :raises LinkLost: it did not work, in words fit for a log.
        """
        try:
            await self._bounded(self.connect(**parameters), timeout_s)
        except LinkLost:
            raise
        except Exception as error:
            self.close()
            raise LinkLost(words(error)) from error

    async def run(self, statement: str, values: Sequence[object], timeout_s: float) -> Result:
        """
        Run one statement; no other may run on this link meanwhile.

        :raises LinkLost: the link broke, or the server cannot be written to any more.
        :raises DatabaseDown: the server cannot do it now.
        """
        try:
            cursor = self.cursor()
            await self._bounded(cursor.execute(statement, values or None), timeout_s)
            rows = cursor.fetchall() if cursor.description else []
            return Result(rows, cursor.rowcount)
        # From None: libpq's text quotes the statement, and with it push tokens.
        except psycopg2.errors.ReadOnlySqlTransaction as error:
            # It became a standby: another host is the primary now.
            self.close()
            raise LinkLost(words(error)) from None
        except _SERVER_FAULTS as error:
            if not self._connection.closed:
                raise DatabaseDown(f"the database failed: {words(error)}") from None
            self.close()
            raise LinkLost(words(error)) from None

    async def _bounded(self, work: Deferred[Any], timeout_s: float) -> None:
        """Wait for ``work``; when time is up, or nobody waits any more, close the link."""
        done: Deferred[Any] = Deferred(lambda _: self.close())
        work.addBoth(lambda result: None if done.called else done.callback(result))
        timer = FairCall(self.reactor, timeout_s, self.close)
        try:
            await done
        except ConnectionDone as error:
            raise LinkLost(f"no answer in {timeout_s:.3g} s", silent=not timer.active()) from error
        except CancelledError as error:
            # What txpostgres makes of QueryCanceled, the server's statement_timeout.
            raise DatabaseDown("the database was too slow") from error
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the link now; what runs on it fails."""
        if not self.alive:
            return
        self.alive = False
        # txpostgres leaves a running cursor in the reactor under a file descriptor that
        # the next connection gets again, and which the reactor then would not watch.
        for cursor in tuple(self._cursors):
            self.reactor.removeReader(cursor)
            self.reactor.removeWriter(cursor)
        if self._connection is not None:
            super().close()
        self.lost.callback(None)

    def doRead(self) -> Exception | None:
        """An idle link that the server closes is no unhandled error, but just lost."""
        try:
            super().doRead()
        except (psycopg2.Error, ValueError) as error:  # or its file descriptor is gone
            return error
        return None

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.close()


def words(error: BaseException) -> str:
    """The first line of libpq's text: the others quote the statement with its values."""
    text = str(error).strip()
    return text.splitlines()[0][:MOST_WORDS] if text else type(error).__name__
