"""
The PostgreSQL connections of one daemon.

Only live connections are handed out. Each slot of the pool connects again whenever its
connection is lost, to whichever host is the primary; a request that finds no free connection
waits for one until its own deadline.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, DeferredList, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.background import Background, shielded
from middlewared.backoff import backoff_s
from middlewared.database.connection_parameters import resolve_host
from middlewared.database.postgres_connection import (
    PostgresConnection,
    PostgresConnectionLost,
    QueryResult,
)
from middlewared.errors import ConfigError, DatabaseDown
from middlewared.waiting import with_fair_timeout

Waiters: TypeAlias = OrderedDict[Deferred[PostgresConnection], None]
"""Requests that wait for a connection, in the order of arrival."""
Values: TypeAlias = Callable[[], Sequence[object]]
"""Returns a statement's values, once there is a connection for it."""

CONNECT_TIMEOUT_S = 1.0
_CAPACITY = 5000
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
# A failover may be that quick; later, requests fail at once instead of waiting.
_FAILOVER_S = 1.0
_MIN_ATTEMPT_S = 0.1
_MOST_REASONS = 10


class PostgresPool:
    """
    ``size`` connections, kept up from :meth:`start` to :meth:`stop`.

    :param hosts: libpq's parameters for each host, in order of preference.
    :param prepare: run on each new connection before it is handed out.
    :param request_timeout_s: for one statement in all, with waiting and repeats.
    :param query_timeout_s: for one attempt; a server that takes longer counts as silent.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        hosts: Sequence[Mapping[str, str]],
        prepare: Callable[[PostgresConnection], Awaitable[None]],
        size: int,
        request_timeout_s: float,
        query_timeout_s: float,
    ) -> None:
        self._reactor = reactor
        self._hosts = hosts
        self._prepare = prepare
        self._size = size
        self._request_timeout_s = request_timeout_s
        self._query_timeout_s = query_timeout_s
        self._first_host = 0
        self._connections: set[PostgresConnection] = set()
        self._idle: list[PostgresConnection] = []
        self._urgent: Waiters = OrderedDict()
        self._others: Waiters = OrderedDict()
        self._running: set[Deferred[QueryResult]] = set()
        self._slots = Background()
        self._stopping = False
        self._live = 0
        self._fault: Exception | None = None
        self._reported: set[str] = set()
        """Why there was no connection, since there was one; each reason is logged once."""

        self._none_since = 0.0

    def start(self) -> None:
        """Begin to connect."""
        self._none_since = self._reactor.seconds()
        for _ in range(self._size):
            self._slots.run(self._keep_connected())

    async def connected(self) -> None:
        """
        Wait for the first connection.

        :raises ConfigError: the database cannot be used by this program.
        :raises DatabaseDown: no host was reached in time; the pool continues to connect.
        """
        deadline = self._reactor.seconds() + CONNECT_TIMEOUT_S * len(self._hosts) + 1
        try:
            self._release(await self._acquire(deadline, self._urgent))
        except DatabaseDown:
            if isinstance(self._fault, ConfigError):
                raise self._fault from None
            raise

    async def stop(self) -> None:
        """Finish the statements in progress, then close every connection."""
        self._stopping = True
        await DeferredList(list(self._running))
        self._slots.cancel()
        for connection in list(self._connections):
            connection.close()
        await self._slots.finish()

    async def run(self, statement: str, values: Values, *, urgent: bool = False) -> QueryResult:
        """
        Run one statement. It is repeated if its connection is lost, so it may be executed twice.

        Cancelling the awaiting Deferred does not reach the statement.

        :param urgent: a call waits for it: it precedes all that are not.
        :raises DatabaseDown: it could not be executed in time.
        """
        if self._stopping:
            raise DatabaseDown("the database is closed")
        running = Deferred.fromCoroutine(self._run(statement, values, urgent))
        self._running.add(running)
        result = shielded(running)
        running.addBoth(lambda _: self._running.discard(running))
        return await result

    async def _run(self, statement: str, values: Values, urgent: bool) -> QueryResult:
        deadline = self._reactor.seconds() + self._request_timeout_s
        while True:
            connection = await self._acquire(deadline, self._urgent if urgent else self._others)
            # Less is left only when this process was paused: its connection came in time.
            remaining_s = max(_MIN_ATTEMPT_S, deadline - self._reactor.seconds())
            timeout_s = min(self._query_timeout_s, remaining_s)
            try:
                return await connection.run(statement, values(), timeout_s)
            except PostgresConnectionLost as error:
                if error.silent:
                    self._close_idle_connections()
            finally:
                self._release(connection)

    def _close_idle_connections(self) -> None:
        """A server that is silent on one connection will be silent on the others too."""
        for connection in list(self._idle):
            connection.close()

    async def _acquire(self, deadline: float, waiters: Waiters) -> PostgresConnection:
        if self._idle:
            return self._idle.pop()
        if len(waiters) >= _CAPACITY:
            raise DatabaseDown(f"{_CAPACITY} requests wait for the database already")
        remaining_s = deadline - self._reactor.seconds()
        if remaining_s <= 0 or self._unavailable():
            raise self._no_connection()
        waiter: Deferred[PostgresConnection] = Deferred(waiters.__delitem__)
        waiters[waiter] = None
        try:
            return await with_fair_timeout(waiter, remaining_s, self._reactor)
        except (TimeoutError, CancelledError):
            raise self._no_connection() from self._fault

    def _unavailable(self) -> bool:
        """Whether requests fail at once instead of waiting for a connection."""
        if self._live or self._fault is None:
            return False
        lasted_s: float = self._reactor.seconds() - self._none_since
        return lasted_s > _FAILOVER_S or isinstance(self._fault, ConfigError)

    def _no_connection(self) -> DatabaseDown:
        return DatabaseDown(f"no database connection: {self._fault or 'all are busy'}")

    def _release(self, connection: PostgresConnection) -> None:
        if not connection.alive:
            return
        waiters = self._urgent or self._others
        if waiters:
            waiter, _ = waiters.popitem(last=False)
            waiter.callback(connection)
        else:
            self._idle.append(connection)

    async def _keep_connected(self) -> None:
        """One slot of the pool: a connection, and after it the next."""
        failures = 0
        while not self._stopping:
            began_at = self._reactor.seconds()
            try:
                connection = await self._connect()
            except CancelledError:
                raise
            except Exception as error:  # whatever it was: the slot must connect again
                self._unreachable(error)
            else:
                self._reachable()
                await self._until_lost(connection)
                if self._reactor.seconds() - began_at > _LONGEST_PAUSE_S:
                    failures = 0
                    continue
            failures += 1
            pause_s = backoff_s(failures, first_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
            await deferLater(self._reactor, pause_s)

    async def _until_lost(self, connection: PostgresConnection) -> None:
        self._live += 1
        self._release(connection)
        await connection.lost
        self._live -= 1
        if not self._live:
            self._none_since = self._reactor.seconds()
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> PostgresConnection:
        """A prepared connection to the first host that accepts one, the last good one first."""
        failed: Exception = PostgresConnectionLost("no host is configured")
        for turn in range(len(self._hosts)):
            number = (self._first_host + turn) % len(self._hosts)
            host = self._hosts[number]
            failed = PostgresConnectionLost(f"{host.get('host')}: no address is known")
            for parameters in await resolve_host(self._reactor, host):
                try:
                    connection = await self._connect_to(parameters)
                except (PostgresConnectionLost, DatabaseDown) as error:
                    failed = PostgresConnectionLost(f"{host.get('host')}: {error}")
                else:
                    self._first_host = number
                    return connection
        raise failed

    async def _connect_to(self, parameters: Mapping[str, str]) -> PostgresConnection:
        connection = PostgresConnection(self._reactor)
        self._connections.add(connection)
        try:
            await connection.open(parameters, CONNECT_TIMEOUT_S)
            await self._prepare(connection)
        except BaseException:
            self._connections.discard(connection)
            connection.close()
            raise
        return connection

    def _unreachable(self, error: Exception) -> None:
        if str(error) not in self._reported and len(self._reported) < _MOST_REASONS:
            self._reported.add(str(error))
            self._log.warn("database: no connection: {why}", why=str(error))
        self._fault = error
        if self._unavailable():
            for waiter in [*self._urgent, *self._others]:
                waiter.cancel()

    def _reachable(self) -> None:
        if self._fault is not None:
            self._log.info("database: connected again")
        self._fault = None
        self._reported.clear()
