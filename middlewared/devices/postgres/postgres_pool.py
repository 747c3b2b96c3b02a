"""
The PostgreSQL connections of one daemon.

The one invariant: only live links are handed out. Each of the pool's places connects for
itself, again and again, to whichever host is the primary; who finds no link waits for
one until its own deadline.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, DeferredList, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from middlewared.background import Background
from middlewared.devices.postgres.addresses import with_addresses
from middlewared.devices.postgres.postgres_connection import LinkLost, PostgresConnection, Result
from middlewared.errors import ConfigError, DatabaseDown
from middlewared.waiting import with_fair_timeout

# Who waits for a link, in order of arrival.
Queue: TypeAlias = OrderedDict[Deferred[PostgresConnection], None]
Values: TypeAlias = Callable[[], Sequence[object]]
"""Gives a statement's values, once there is a link for it."""

CONNECT_TIMEOUT_S = 1.0
_CAPACITY = 5000
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
# A failover may be that quick; who asks later is told at once that there is no database.
_HOPE_S = 1.0
_LEAST_S = 0.1


class PostgresPool:
    """
    ``size`` links, kept connected from :meth:`start` to :meth:`stop`.

    :param hosts: libpq's parameters for each host, in order of preference.
    :param prepare: run on each new link before it is handed out.
    :param request_timeout_s: for one statement in all, with waiting and repeats.
    :param query_timeout_s: for one try of a statement; then the server counts as silent.
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
        self._links: set[PostgresConnection] = set()
        self._idle: list[PostgresConnection] = []
        self._urgent: Queue = OrderedDict()
        self._others: Queue = OrderedDict()
        self._running: set[Deferred[Result]] = set()
        self._places = Background()
        self._stopping = False
        self._live = 0
        self._fault: Exception | None = None
        self._none_since = 0.0

    def start(self) -> None:
        """Begin to connect."""
        self._none_since = self._reactor.seconds()
        for _ in range(self._size):
            self._places.run(self._keep_connected())

    async def connected(self) -> None:
        """
        Wait for the first link.

        :raises ConfigError: the database cannot be used by this program.
        :raises DatabaseDown: no host could be reached in time; the pool goes on trying.
        """
        deadline = self._reactor.seconds() + CONNECT_TIMEOUT_S * len(self._hosts) + 1
        try:
            self._give(await self._take(deadline, self._urgent))
        except DatabaseDown:
            if isinstance(self._fault, ConfigError):
                raise self._fault from None
            raise

    async def stop(self) -> None:
        """Finish the statements under way, then close every link."""
        self._stopping = True
        await DeferredList(list(self._running))
        self._places.cancel()
        for link in list(self._links):
            link.close()
        await self._places.finish()

    async def run(self, statement: str, values: Values, *, urgent: bool = False) -> Result:
        """
        Run one statement. It is repeated when its link is lost, so it may be done twice.

        Cancelling the awaiting Deferred does not reach the statement.

        :param urgent: a call waits for it: it goes before all that are not.
        :raises DatabaseDown: it could not be done in time.
        """
        if self._stopping:
            raise DatabaseDown("the database is closed")
        running = Deferred.fromCoroutine(self._run(statement, values, urgent))
        self._running.add(running)
        answer: Deferred[Result] = Deferred(lambda _: None)

        def done(result: Result | Failure) -> None:
            self._running.discard(running)
            if not answer.called:
                answer.callback(result)

        running.addBoth(done)
        return await answer

    async def _run(self, statement: str, values: Values, urgent: bool) -> Result:
        deadline = self._reactor.seconds() + self._request_timeout_s
        while True:
            link = await self._take(deadline, self._urgent if urgent else self._others)
            # Less is left only when this process was paused: its link came in time.
            remaining_s = max(_LEAST_S, deadline - self._reactor.seconds())
            try:
                return await link.run(statement, values(), min(self._query_timeout_s, remaining_s))
            except LinkLost as error:
                if error.silent:
                    self._distrust_idle_links()
            finally:
                self._give(link)

    def _distrust_idle_links(self) -> None:
        """The server of a silent link is silent on the others too: find that out at once."""
        for link in list(self._idle):
            link.close()

    async def _take(self, deadline: float, queue: Queue) -> PostgresConnection:
        if self._idle:
            return self._idle.pop()
        if len(queue) >= _CAPACITY:
            raise DatabaseDown(f"{_CAPACITY} requests wait for the database already")
        remaining_s = deadline - self._reactor.seconds()
        if remaining_s <= 0 or self._hopeless():
            raise self._away()
        turn: Deferred[PostgresConnection] = Deferred(queue.__delitem__)
        queue[turn] = None
        try:
            return await with_fair_timeout(turn, remaining_s, self._reactor)
        except (TimeoutError, CancelledError):
            raise self._away() from self._fault

    def _hopeless(self) -> bool:
        if self._live or self._fault is None:
            return False
        lasted_s: float = self._reactor.seconds() - self._none_since
        return lasted_s > _HOPE_S or isinstance(self._fault, ConfigError)

    def _away(self) -> DatabaseDown:
        return DatabaseDown(f"no database connection: {self._fault or 'all are busy'}")

    def _give(self, link: PostgresConnection) -> None:
        if not link.alive:
            return
        queue = self._urgent or self._others
        if queue:
            turn, _ = queue.popitem(last=False)
            turn.callback(link)
        else:
            self._idle.append(link)

    async def _keep_connected(self) -> None:
        """One place of the pool: a link, and after it the next."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping:
            began = self._reactor.seconds()
            try:
                link = await self._connect()
            except CancelledError:
                raise
            except Exception as error:  # whatever it was: a place of the pool is never given up
                self._unreachable(error)
            else:
                self._reachable()
                await self._until_lost(link)
                if self._reactor.seconds() - began > _LONGEST_PAUSE_S:
                    pause_s = _FIRST_PAUSE_S
                    continue
            # Spread out, so that a server that returns is not met by all at once.
            pause = random.uniform(pause_s / 2, pause_s)  # noqa: S311
            await deferLater(self._reactor, pause)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _until_lost(self, link: PostgresConnection) -> None:
        self._live += 1
        self._give(link)
        await link.lost
        self._live -= 1
        if not self._live:
            self._none_since = self._reactor.seconds()
        self._links.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    async def _connect(self) -> PostgresConnection:
        """A prepared link to the first host that gives one, the last good one first."""
        failed: Exception = LinkLost("no host is configured")
        for turn in range(len(self._hosts)):
            number = (self._first_host + turn) % len(self._hosts)
            host = self._hosts[number]
            failed = LinkLost(f"{host.get('host')}: no address is known")
            for parameters in await with_addresses(self._reactor, host):
                try:
                    link = await self._connect_to(parameters)
                except (LinkLost, DatabaseDown) as error:
                    failed = LinkLost(f"{host.get('host')}: {error}")
                else:
                    self._first_host = number
                    return link
        raise failed

    async def _connect_to(self, parameters: Mapping[str, str]) -> PostgresConnection:
        link = PostgresConnection(self._reactor)
        self._links.add(link)
        try:
            await link.open(parameters, CONNECT_TIMEOUT_S)
            await self._prepare(link)
        except BaseException:
            self._links.discard(link)
            link.close()
            raise
        return link

    def _unreachable(self, error: Exception) -> None:
        if self._fault is None:
            self._log.warn("database: no connection: {why}", why=str(error))
        self._fault = error
        if self._hopeless():
            for turn in [*self._urgent, *self._others]:
                turn.cancel()

    def _reachable(self) -> None:
        if self._fault is not None:
            self._log.info("database: connected again")
        self._fault = None
