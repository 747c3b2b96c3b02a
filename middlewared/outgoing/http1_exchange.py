"""
One HTTP/1.1 exchange: a request and its answer, through treq over a kept connection.

When an exchange ends (answered, failed or cancelled), its connection is idle in the pool or
closed, and its :class:`~.interface.Progress` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, cast

import attrs
from hyperlink import EncodedURL
from OpenSSL import SSL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, execute, succeed
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from middlewared.outgoing.http1_connection import AnswerTooLong, Http1Connection
from middlewared.outgoing.http1_pool import ConnectionPool
from middlewared.outgoing.interface import (
    AnswerTimes,
    Dropped,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TimedOut,
    Unwanted,
)
from middlewared.outgoing.tcp_endpoints import UriEndpoints
from middlewared.waiting import FairCall


@attrs.frozen
class Http1Request:
    """One request and its limits, as :meth:`.interface.HttpClient.request` describes them."""

    method: str
    url: str
    headers: Mapping[str, str | bytes] = attrs.field(repr=False)
    body: bytes | None = attrs.field(repr=False)
    wanted: Callable[[], bool] | None
    answer: AnswerTimes | None
    progress: Progress


@attrs.define(kw_only=True, eq=False, repr=False)
class Http1Exchange:
    """
    One request: its connection, its time limits, its result.

    For Twisted's agent it is the connection pool, which provides that one connection; for the
    connection it is the :class:`~.http1_connection.Watcher`.

    :param max_body_bytes: the limit at which the answer's body is cut.
    """

    persistent = True

    _request: Http1Request
    _timeout_s: float
    _reactor: Any
    _pool: ConnectionPool
    _endpoints: UriEndpoints
    _max_body_bytes: int
    _host: Hashable = attrs.field(default=None, init=False)
    _connection: Http1Connection | None = attrs.field(default=None, init=False)
    _is_kept: bool = attrs.field(default=False, init=False)
    _sent_at: float | None = attrs.field(default=None, init=False)
    _heard: bool = attrs.field(default=False, init=False)
    _content: AnswerBody | None = attrs.field(default=None, init=False)
    _response: IResponse | None = attrs.field(default=None, init=False)
    _limit: FairCall | None = attrs.field(default=None, init=False)
    _expired_s: float | None = attrs.field(default=None, init=False)
    _is_cancelled: bool = attrs.field(default=False, init=False)
    _running: Deferred[HttpResponse] | None = attrs.field(default=None, init=False)

    def run(self) -> Deferred[HttpResponse]:
        """Send the request and read its answer; fails as :meth:`.interface.HttpClient.request`."""
        if self._request.answer is None:
            self._limit_to(self._timeout_s)
        ended: Deferred[HttpResponse] = Deferred(self._cancel)
        self._running = running = Deferred.fromCoroutine(self._run())
        running.chainDeferred(ended)
        return ended

    def _cancel(self, _: Deferred[HttpResponse]) -> None:
        self._is_cancelled = True
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> HttpResponse:
        request = self._request
        agent = Agent.usingEndpointFactory(self._reactor, self._endpoints, cast(Any, self))
        client = HTTPClient(cast(IAgent, agent), NO_COOKIES, cast(Any, WholeBody))
        try:
            self._response = response = await client.request(
                request.method,
                parse_url(request.url),
                headers=_raw_headers(request.headers),
                data=request.body,
                cookies=NO_COOKIES,
                allow_redirects=False,
                unbuffered=True,
                reactor=self._reactor,
            )
            self._content = AnswerBody(self._max_body_bytes)
            complete = await self._content.read(response)
        except Unwanted:
            raise
        except Exception as error:  # a peer can make the layers below raise nearly anything
            self._record()
            if self._connection is not None:
                self._connection.abandon()
            raise self._translated(error) from error
        finally:
            self._end_limit()
        if not complete and self._connection is not None:
            self._connection.abandon()
        request.progress.sent_at = self._sent_at
        return HttpResponse(response.code, response.headers, self._content.content, complete)

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """Give the agent a connection on which the request can be sent at once."""
        self._host = key
        kept = self._pool.take(key)
        if kept is not None:
            self._is_kept = True
            return execute(self._begin, kept)
        if self._request.answer is not None:
            self._limit_to(self._timeout_s)
        return self._pool.connect(key, endpoint).addCallback(self._begin)

    def _begin(self, connection: Http1Connection) -> Http1Connection:
        wanted = self._request.wanted
        if wanted is not None and not wanted():
            self._pool.keep(connection)
            raise Unwanted("not wanted any more")
        self._connection = connection
        connection.watcher = self
        return connection

    def sent(self) -> None:
        sent_at = self._sent_at = self._reactor.seconds()
        answer = self._request.answer
        if answer is None:
            return
        self._end_limit()
        if self._is_kept:
            patience_s = min(answer.whole_s, self._pool.latency(self._host).patience_s())
            self._limit = FairCall(
                self._reactor, patience_s, self._silent, patience_s, sent_at, answer
            )
        else:
            self._limit_to(answer.whole_s)

    def heard(self) -> None:
        if not self._heard and self._sent_at is not None:
            self._heard = True
            self._pool.latency(self._host).answered(self._reactor.seconds() - self._sent_at)

    def _silent(self, waited_s: float, sent_at: float, answer: AnswerTimes) -> None:
        """The time for the first byte on a kept connection is up."""
        if self._heard:
            longest_s = answer.whole_s
        else:
            self._pool.drop_unheard(self._host, sent_at)
            longest_s = min(answer.whole_s, answer.kept_s)
        if longest_s > waited_s:
            self._limit = FairCall(self._reactor, longest_s - waited_s, self._expire, longest_s)
        else:
            self._expire(waited_s)

    def _limit_to(self, longest_s: float) -> None:
        self._limit = FairCall(self._reactor, longest_s, self._expire, longest_s)

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
        connection, progress = self._connection, self._request.progress
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
        """Our own error instead of Twisted's, whose texts quote what peers sent."""
        if self._expired_s is not None:
            return TimedOut(f"no answer within {self._expired_s:.3g} s")
        if self._is_cancelled:
            return CancelledError()
        closed = all(isinstance(each, ConnectionClosed) for each in _causes(error))
        return (Dropped if closed and not self._heard else OutgoingFailed)(explain(error))


class _Url(EncodedURL):
    """A URL that is already encoded: treq would encode it again, a fifth of a request's cost."""

    _text: str | None = None

    def to_uri(self) -> EncodedURL:
        return self

    def to_text(self, with_password: bool = False) -> str:  # noqa: ARG002 - hyperlink's
        if self._text is None:
            self._text = super().to_text()
        return self._text


@lru_cache(maxsize=256)
def parse_url(url: str) -> EncodedURL:
    """``url`` as treq takes it, encoded."""
    return _Url.from_text(EncodedURL.from_text(url).to_uri().to_text())


class _NoCookies(IndexableCookieJar):
    """treq shares cookies among all requests of a client, so one account's would reach another."""

    def add_cookie_header(self, request: object) -> None:
        """There are none."""

    def extract_cookies(self, response: object, request: object) -> None:
        """They are ignored."""


NO_COOKIES = _NoCookies()


@implementer(IBodyProducer)
class WholeBody:
    """Writes the body together with the headers; treq's own producer is one turn later."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)  # type: ignore[call-arg, misc]  # Twisted's interface has no self
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written."""

    def resumeProducing(self) -> None:
        """All is written."""

    def stopProducing(self) -> None:
        """All is written."""


class AnswerBody(Protocol):
    """Collects at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()
        self._done: Deferred[bool] = Deferred()

    @property
    def content(self) -> bytes:
        """The bytes so far."""
        return bytes(self._received[: self._limit])

    def read(self, response: IResponse) -> Deferred[bool]:
        """Fires when complete (True) or at the limit (False); fails if the body breaks off."""
        response.deliverBody(self)  # type: ignore[call-arg, misc]  # Twisted's interface has no self
        return self._done

    def dataReceived(self, data: bytes) -> None:
        if self._done.called:
            return
        self._received += data
        if len(self._received) > self._limit:
            self._done.callback(False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self._done.callback(True)
        else:
            self._done.errback(reason)


def _raw_headers(headers: Mapping[str, str | bytes]) -> Headers:
    raw = Headers()
    for name, value in headers.items():
        raw.setRawHeaders(name, [value])
    return raw


def host_of(url: str) -> tuple[URI, Hashable]:
    """The host of ``url``, and the key that Twisted's agent uses for it."""
    uri = URI.fromBytes(parse_url(url).to_text().encode("ascii"))
    return uri, (uri.scheme, uri.host, uri.port)


def _causes(error: BaseException) -> list[BaseException]:
    return [each.value for each in getattr(error, "reasons", ())] or [error]


def explain(error: BaseException) -> str:
    """Why a request failed, without text that a peer sent."""
    return "; ".join(map(_explain, _causes(error)))


def _explain(error: BaseException) -> str:
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return f"TLS: {error.args[0][0][2]}"
    if isinstance(error, ConnectError | ConnectionClosed | DNSLookupError | AnswerTooLong):
        return str(error)
    return type(error).__name__
