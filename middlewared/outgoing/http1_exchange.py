"""
One HTTP/1.1 exchange: treq over a pool of kept connections.

The one invariant: when an exchange ends (answered, failed or cancelled) its connection
is idle in the pool or closed, and its :class:`~.interface.Progress` is written.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, cast

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from middlewared.clock import Clock
from middlewared.outgoing.http1_connection import Http1Connection
from middlewared.outgoing.http1_pool import ConnectionPool
from middlewared.outgoing.interface import (
    AnswerTimes,
    Dropped,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TcpEndpoints,
    TimedOut,
    Unwanted,
)
from middlewared.outgoing.messages import (
    NO_COOKIES,
    AnswerBody,
    WholeBody,
    host_of,
    parsed,
    raw_headers,
    reasons_of,
    words,
)
from middlewared.outgoing.tcp_endpoints import UriEndpoints
from middlewared.outgoing.tls import ClientTLS
from middlewared.outgoing.warm_connection import WarmConnection
from middlewared.waiting import FairCall


@attrs.frozen
class Asked:
    """One request and its limits, as :meth:`.interface.HttpClient.request` describes them."""

    method: str
    url: str
    headers: Mapping[str, str | bytes] = attrs.field(repr=False)
    body: bytes | None = attrs.field(repr=False)
    wanted: Callable[[], bool] | None
    answer: AnswerTimes | None
    progress: Progress


class Exchanges:
    """
    Sends requests over kept connections; answer bodies are cut at ``max_body_bytes``.

    :param max_connections: how many it keeps for each host; the caller bounds those in use.
    :param rest_s: how long an idle connection is kept.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        endpoints: TcpEndpoints,
        tls: ClientTLS,
        max_connections: int,
        max_body_bytes: int,
        rest_s: float,
    ) -> None:
        self._reactor = reactor
        self._endpoints = UriEndpoints(endpoints, tls)
        self._max_body_bytes = max_body_bytes
        self._rest_s = rest_s
        self._pool = ConnectionPool(
            reactor=reactor, most=max_connections, max_body_bytes=max_body_bytes, rest_s=rest_s
        )
        self._warm: dict[Hashable, WarmConnection] = {}

    def run(self, asked: Asked, timeout_s: float) -> Deferred[HttpResponse]:
        """
        One request and its answer.

        :raises TimedOut: it took longer.
        :raises Dropped: the peer closed the connection instead of answering.
        :raises Unwanted: ``wanted`` returned False.
        :raises OutgoingFailed: no connection, TLS refused, or the answer broke off.
        """
        return _Exchange(asked, timeout_s, self._pool, self._reactor).run(
            self._endpoints, self._max_body_bytes
        )

    def keep_warm(self, url: str) -> None:
        """Keep one connection to the host of ``url`` ready from now on."""
        uri, host = host_of(url)
        if host in self._warm:
            return
        warm = self._warm[host] = WarmConnection(
            clock=self._reactor,
            host=f"{uri.host.decode()}:{uri.port}",
            open_one=lambda: self._open(uri, host),
            heard_at=lambda: self._pool.heard_at(host),
            explain=words,
            renew_s=self._rest_s * 5 / 6,
        )
        self._pool.watch(host, warm.lost)
        warm.start()

    def connection_states(self, url: str) -> Mapping[str, int]:
        """Connections to the host of ``url`` by state."""
        return self._pool.states(host_of(url)[1])

    async def close(self) -> None:
        """Close the idle connections, and open no more in advance."""
        for warm in self._warm.values():
            warm.stop()
        await self._pool.close()

    def _open(self, uri: URI, host: Hashable) -> Deferred[None]:
        connecting = self._pool.connect(host, self._endpoints.endpointForURI(uri))
        return connecting.addCallback(self._pool.keep)


class _Exchange:
    """
    The course of one request: its connection, its time limits, its result.

    For Twisted's agent this is the connection pool, which provides that one connection.
    """

    persistent = True

    def __init__(self, asked: Asked, timeout_s: float, pool: ConnectionPool, reactor: Any) -> None:
        self._asked = asked
        self._timeout_s = timeout_s
        self._pool = pool
        self._reactor = reactor
        self._clock: Clock = reactor
        self._host: Hashable = None
        self._connection: Http1Connection | None = None
        self._is_kept = False
        self._sent_at: float | None = None
        self._heard = False
        self._content: AnswerBody | None = None
        self._response: IResponse | None = None
        self._limit: FairCall | None = None
        self._expired_s: float | None = None
        self._is_cancelled = False
        self._running: Deferred[HttpResponse] | None = None

    def run(self, endpoints: UriEndpoints, max_body_bytes: int) -> Deferred[HttpResponse]:
        """The answer, or what :meth:`Exchanges.run` raises."""
        if self._asked.answer is None:
            self._limit_to(self._timeout_s)
        ended: Deferred[HttpResponse] = Deferred(self._cancel)
        self._running = running = Deferred.fromCoroutine(self._run(endpoints, max_body_bytes))
        running.chainDeferred(ended)
        return ended

    def _cancel(self, _: Deferred[HttpResponse]) -> None:
        self._is_cancelled = True
        if self._running is not None:
            self._running.cancel()

    async def _run(self, endpoints: UriEndpoints, max_body_bytes: int) -> HttpResponse:
        asked = self._asked
        agent = Agent.usingEndpointFactory(self._reactor, endpoints, cast(Any, self))
        client = HTTPClient(cast(IAgent, agent), NO_COOKIES, cast(Any, WholeBody))
        try:
            self._response = response = await client.request(
                asked.method,
                parsed(asked.url),
                headers=raw_headers(asked.headers),
                data=asked.body,
                cookies=NO_COOKIES,
                allow_redirects=False,
                unbuffered=True,
                reactor=self._reactor,
            )
            self._content = AnswerBody(max_body_bytes)
            complete = await self._content.read(response)
        except Unwanted:
            raise
        except Exception as error:  # the layers below may raise anything that a peer can provoke
            self._record()
            if self._connection is not None:
                self._connection.abandon()
            raise self._translated(error) from error
        finally:
            self._end_limit()
        if not complete and self._connection is not None:
            self._connection.abandon()
        asked.progress.sent_at = self._sent_at
        return HttpResponse(response.code, response.headers, self._content.content, complete)

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """Give the agent a connection on which the request can be sent at once."""
        self._host = key
        kept = self._pool.take(key)
        if kept is not None:
            self._is_kept = True
            return execute(self._begin, kept)
        if self._asked.answer is not None:
            self._limit_to(self._timeout_s)
        return self._pool.connect(key, endpoint).addCallback(self._begin)

    def _begin(self, connection: Http1Connection) -> Http1Connection:
        wanted = self._asked.wanted
        if wanted is not None and not wanted():
            self._pool.keep(connection)
            raise Unwanted("not wanted any more")
        self._connection = connection
        connection.watcher = self
        return connection

    def sent(self) -> None:
        """All of the request was handed to the connection."""
        sent_at = self._sent_at = self._clock.seconds()
        answer = self._asked.answer
        if answer is None:
            return
        self._end_limit()
        if self._is_kept:
            patience_s = min(answer.whole_s, self._pool.pace(self._host).patience_s())
            self._limit = FairCall(
                self._clock, patience_s, self._silent, patience_s, sent_at, answer
            )
        else:
            self._limit_to(answer.whole_s)

    def heard(self) -> None:
        """A byte of the answer has arrived."""
        if not self._heard and self._sent_at is not None:
            self._heard = True
            self._pool.pace(self._host).answered(self._clock.seconds() - self._sent_at)

    def _silent(self, waited_s: float, sent_at: float, answer: AnswerTimes) -> None:
        """The time for the first byte on a kept connection is up."""
        if self._heard:
            longest_s = answer.whole_s
        else:
            self._pool.doubt(self._host, sent_at)
            longest_s = min(answer.whole_s, answer.kept_s)
        if longest_s > waited_s:
            self._limit = FairCall(self._clock, longest_s - waited_s, self._expire, longest_s)
        else:
            self._expire(waited_s)

    def _limit_to(self, longest_s: float) -> None:
        self._limit = FairCall(self._clock, longest_s, self._expire, longest_s)

    def _end_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _expire(self, after_s: float) -> None:
        self._expired_s = after_s
        if self._running is not None:
            self._running.cancel()

    def _record(self) -> None:
        """Record how far the request got, for the caller."""
        connection, progress = self._connection, self._asked.progress
        if connection is None or self._sent_at is None:
            return
        if self._response is not None:
            content = b"" if self._content is None else self._content.content
            progress.partial = HttpResponse(
                self._response.code, self._response.headers, content, False
            )
        elif connection.status is not None:
            progress.partial = HttpResponse(connection.status, Headers(), b"", False)
        if progress.partial is not None or connection.is_flushed:
            progress.sent_at = self._sent_at

    def _translated(self, error: Exception) -> Exception:
        """Our own error in place of Twisted's, whose texts quote what peers sent."""
        if self._expired_s is not None:
            return TimedOut(f"no answer within {self._expired_s:.3g} s")
        if self._is_cancelled:
            return CancelledError()
        closed = all(isinstance(each, ConnectionClosed) for each in reasons_of(error))
        return (Dropped if closed and not self._heard else OutgoingFailed)(words(error))
