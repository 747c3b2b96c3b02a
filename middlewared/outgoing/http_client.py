"""
The HTTP client: requests to a few configured hosts, over kept connections.

A request ends within its time-out, and until then it uses at most one connection.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import URI

from middlewared.outgoing.http1_exchange import Http1Exchange, Http1Request, explain, host_of
from middlewared.outgoing.http1_pool import REST_S, ConnectionPool
from middlewared.outgoing.interface import (
    AnswerTimes,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TcpEndpoints,
    TimedOut,
    Unwanted,
)
from middlewared.outgoing.slots import Slots
from middlewared.outgoing.tcp_endpoints import UriEndpoints
from middlewared.outgoing.tls import ClientTLS
from middlewared.outgoing.warm_connection import WarmConnection
from middlewared.waiting import with_fair_timeout

MAX_CONNECTIONS = 256
MAX_BODY_BYTES = 65_536


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
        self._reactor = reactor
        self._endpoints = UriEndpoints(endpoints, tls)
        self._max_body_bytes = max_body_bytes
        self._rest_s = rest_s
        self._pool = ConnectionPool(
            reactor=reactor, most=max_connections, max_body_bytes=max_body_bytes, rest_s=rest_s
        )
        self._warm: dict[Hashable, WarmConnection] = {}
        self._slots = Slots(max_connections)
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
        request = Http1Request(method, url, headers, body, wanted, answer, progress or Progress())
        request.progress.clear()
        running = Deferred.fromCoroutine(self._in_slot(request, timeout_s, turn_s))
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
        uri, host = host_of(url)
        if self._closed or host in self._warm:
            return
        warm = self._warm[host] = WarmConnection(
            clock=self._reactor,
            host=f"{uri.host.decode()}:{uri.port}",
            open_one=lambda: self._open(uri, host),
            heard_at=lambda: self._pool.heard_at(host),
            explain=explain,
            renew_s=self._rest_s * 5 / 6,
        )
        self._pool.watch(host, warm.lost)
        warm.start()

    def connection_states(self, url: str) -> Mapping[str, int]:
        return self._pool.states(host_of(url)[1])

    async def close(self) -> None:
        self._closed = True
        for running in list(self._running):
            running.cancel()
        for warm in self._warm.values():
            warm.stop()
        await self._pool.close()

    def _open(self, uri: URI, host: Hashable) -> Deferred[None]:
        """Open a connection in advance."""
        connecting = self._pool.connect(host, self._endpoints.endpointForURI(uri))
        return connecting.addCallback(self._pool.keep)

    async def _in_slot(
        self, request: Http1Request, timeout_s: float, turn_s: float | None
    ) -> HttpResponse:
        """Wait for a free slot, then send ``request``."""
        began_at = self._reactor.seconds()
        turn = self._slots.acquire()
        if not turn.called:
            # A request sent with little time left would only blame the peer, and break
            # a good connection when its time is up.
            longest_s = timeout_s / 2 if turn_s is None else turn_s
            with_fair_timeout(turn, longest_s, self._reactor, partial(_none_free, longest_s))
        await turn
        if turn_s is None:
            timeout_s -= self._reactor.seconds() - began_at
        answered = False
        try:
            response = await self._exchange(request, timeout_s)
            answered = True
            return response
        except Unwanted:
            answered = True  # the peer is not to blame
            raise
        finally:
            self._slots.release(answered=answered)

    def _exchange(self, request: Http1Request, timeout_s: float) -> Deferred[HttpResponse]:
        return Http1Exchange(
            request=request,
            timeout_s=timeout_s,
            reactor=self._reactor,
            pool=self._pool,
            endpoints=self._endpoints,
            max_body_bytes=self._max_body_bytes,
        ).run()


def _none_free(timeout_s: float) -> NoReturn:
    raise TimedOut(f"no connection was free within {timeout_s:.3g} s")
