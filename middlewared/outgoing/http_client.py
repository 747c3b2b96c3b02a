"""
The HTTP client: requests to a few configured hosts, over kept connections.

A request ends within its time-out, and until then it uses at most one connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn, cast

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import Agent
from twisted.web.iweb import IAgent

from middlewared.outgoing.http1_exchange import Http1Exchange, explain
from middlewared.outgoing.http1_pool import ConnectionPool, Http1Host
from middlewared.outgoing.interface import (
    AnswerTimes,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TcpEndpoints,
    TimedOut,
)
from middlewared.outgoing.slots import Slots
from middlewared.outgoing.tls import ClientTLS
from middlewared.outgoing.warm_connection import WarmConnection
from middlewared.waiting import with_fair_timeout

MAX_CONNECTIONS = 64
MAX_BODY_BYTES = 65_536
REST_S = 60.0
"""
How long an idle connection is kept. NAT gateways and load balancers drop idle ones, some
silently: Azure's after 240 s, AWS's after 350 s.
"""


class PooledHttpClient:
    """
    Talks HTTP/1.1 to a few configured hosts; implements :class:`~.interface.WarmHttpClient`.

    Requests beyond ``max_connections`` wait for a free connection, within their time-out.

    :param max_connections: to all hosts together; as many idle ones are kept for each.
    :param max_body_bytes: the limit at which answers' bodies are cut.
    :param rest_s: how long an idle connection is kept.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        endpoints: TcpEndpoints,
        tls: ClientTLS,
        max_connections: int = MAX_CONNECTIONS,
        max_body_bytes: int = MAX_BODY_BYTES,
        rest_s: float = REST_S,
    ) -> None:
        self._clock = reactor
        self._max_body_bytes = max_body_bytes
        self._rest_s = rest_s
        self._pool = ConnectionPool(clock=reactor, endpoints=endpoints, tls=tls, rest_s=rest_s)
        agent = Agent.usingEndpointFactory(reactor, self._pool, cast(Any, self._pool))
        # No cookies: one account's would be sent with the requests of others.
        cookies = IndexableCookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._treq = HTTPClient(cast(IAgent, agent), cookies)
        self._slots = Slots(max_connections)
        self._warm: dict[Http1Host, WarmConnection] = {}
        self._running: set[Deferred[HttpResponse]] = set()
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str | bytes],
        body: bytes | None = None,
        timeout_s: float,
        turn_s: float | None = None,
        wanted: Callable[[], bool] | None = None,
        answer: AnswerTimes | None = None,
        progress: Progress | None = None,
    ) -> HttpResponse:
        if self._closed:
            raise OutgoingFailed("closed")
        progress = progress or Progress()
        progress.clear()
        exchange = Http1Exchange(
            treq=self._treq,
            pool=self._pool,
            clock=self._clock,
            max_body_bytes=self._max_body_bytes,
            method=method,
            url=url,
            headers=headers,
            body=body,
            wanted=wanted,
            times=answer,
            progress=progress,
        )
        running = Deferred.fromCoroutine(self._in_slot(exchange, timeout_s, turn_s))
        self._running.add(running)
        try:
            return await running
        except CancelledError as error:
            if self._closed:
                raise OutgoingFailed("closed") from error
            raise
        finally:
            self._running.discard(running)

    def keep_warm(self, url: str) -> None:
        host = self._pool.host(url)
        if self._closed or host in self._warm:
            return
        warm = self._warm[host] = WarmConnection(
            clock=self._clock,
            host=host.name,
            open_one=host.open,
            heard_at=host.heard_at,
            explain=explain,
            renew_s=self._rest_s * 5 / 6,
        )
        warm.start()

    def connection_states(self, url: str) -> Mapping[str, int]:
        return self._pool.host(url).states()

    async def close(self) -> None:
        self._closed = True
        for running in list(self._running):
            running.cancel()
        for warm in self._warm.values():
            warm.stop()
        await self._pool.close()

    async def _in_slot(
        self, exchange: Http1Exchange, timeout_s: float, turn_s: float | None
    ) -> HttpResponse:
        """Wait for a free slot, then send the request."""
        began_at = self._clock.seconds()
        turn = self._slots.acquire()
        if not turn.called:
            # A request sent with little time left would only blame the peer, and break
            # a good connection when its time is up.
            longest_s = max(0.0, timeout_s / 2 if turn_s is None else turn_s)
            with_fair_timeout(turn, longest_s, self._clock, partial(_none_free, longest_s))
        await turn
        if turn_s is None:
            timeout_s = max(0.0, timeout_s - (self._clock.seconds() - began_at))
        try:
            return await exchange.run(timeout_s)
        finally:
            self._slots.release()


def _none_free(timeout_s: float) -> NoReturn:
    raise TimedOut(f"no connection was free within {timeout_s:.3g} s")
