"""
The HTTP client: treq over our own endpoints and a bounded pool of kept connections.

The one invariant: a request holds at most one connection, and when it ends (answered,
failed, timed out or cancelled) that connection is idle in the pool or closed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

from hyperlink import EncodedURL
from OpenSSL import SSL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from middlewared.outgoing.interface import (
    Dropped,
    OutgoingFailed,
    Reply,
    TcpEndpoints,
    TimedOut,
    Unwanted,
)
from middlewared.outgoing.slots import Slots
from middlewared.outgoing.tls import ClientTLS

MAX_CONNECTIONS = 256
MAX_BODY_BYTES = 65_536
IDLE_TIMEOUT_S = 120


class PooledHttpClient:
    """
    Talks HTTP/1.1 to a few configured hosts over connections it keeps.

    Requests above ``max_connections`` wait for a free one inside their own time-out.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        endpoints: TcpEndpoints,
        tls: ClientTLS,
        max_connections: int = MAX_CONNECTIONS,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._reactor = reactor
        self._endpoints = _UriEndpoints(endpoints, tls)
        self._max_body_bytes = max_body_bytes
        self._slots = Slots(max_connections)
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = max_connections
        self._pool.cachedConnectionTimeout = IDLE_TIMEOUT_S
        # A repeat is the business of whoever knows what is repeated.
        self._pool.retryAutomatically = False
        self._running: set[Deferred[Reply]] = set()
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
    ) -> Reply:
        """See :meth:`middlewared.outgoing.interface.HttpClient.request`."""
        if self._closed:
            raise OutgoingFailed("closed")
        exchange = partial(self._exchange, method, url, _headers(headers), body)
        running = Deferred.fromCoroutine(self._in_turn(exchange, wanted, timeout_s, turn_s))
        self._running.add(running)
        try:
            return await running
        except CancelledError as error:
            if self._closed:
                raise OutgoingFailed("closed") from error
            raise
        finally:
            self._running.discard(running)

    async def close(self) -> None:
        """End all requests, which fail as OutgoingFailed, and close every connection."""
        self._closed = True
        for running in list(self._running):
            running.cancel()
        await self._pool.closeCachedConnections()

    async def _in_turn(
        self,
        exchange: Callable[[], Coroutine[Deferred[Any], Any, Reply]],
        wanted: Callable[[], bool] | None,
        timeout_s: float,
        turn_s: float | None,
    ) -> Reply:
        asked_at = self._reactor.seconds()
        turn = self._slots.acquire()
        if not turn.called:
            # A request sent with little time left would only blame the peer, and break
            # a good connection when its time is up.
            longest_s = timeout_s / 2 if turn_s is None else turn_s
            turn.addTimeout(longest_s, self._reactor, onTimeoutCancel=_none_free)
        await turn
        if turn_s is None:
            timeout_s -= self._reactor.seconds() - asked_at
        answered = False
        try:
            if wanted is not None and not wanted():
                answered = True  # the peer is not to blame
                raise Unwanted("not wanted any more")
            running = Deferred.fromCoroutine(exchange())
            running.addTimeout(timeout_s, self._reactor, onTimeoutCancel=_timed_out)
            reply = await running
            answered = True
            return reply
        finally:
            self._slots.release(answered=answered)

    async def _exchange(self, method: str, url: str, headers: Headers, body: bytes | None) -> Reply:
        lease = _Lease(self._pool)
        agent = Agent.usingEndpointFactory(self._reactor, self._endpoints, lease)
        client = HTTPClient(cast(IAgent, agent), _NO_COOKIES, cast(Any, _WholeBody))
        try:
            response = await client.request(
                method,
                _parsed(url),
                headers=headers,
                data=body,
                cookies=_NO_COOKIES,
                allow_redirects=False,
                unbuffered=True,
                reactor=self._reactor,
            )
            content, complete = await _read(response, self._max_body_bytes)
        except CancelledError:
            lease.abort()
            raise
        except Exception as error:  # what a peer can provoke in the layers below has no list
            lease.abort()
            raise _translated(error) from error
        if not complete:
            lease.abort()
        return Reply(response.code, response.headers, content, complete)


class _Url(EncodedURL):
    """An URL that was encoded once: treq's doing so again is a fifth of a request's cost."""

    _text: str | None = None

    def to_uri(self) -> EncodedURL:
        return self

    def to_text(self, with_password: bool = False) -> str:  # noqa: ARG002 - hyperlink's
        if self._text is None:
            self._text = super().to_text()
        return self._text


@lru_cache(maxsize=256)
def _parsed(url: str) -> EncodedURL:
    return _Url.from_text(EncodedURL.from_text(url).to_uri().to_text())


class _NoCookies(IndexableCookieJar):
    """treq keeps cookies for all users of a client: one account's would go with another's."""

    def add_cookie_header(self, request: object) -> None:
        """There are none."""

    def extract_cookies(self, response: object, request: object) -> None:
        """They are ignored."""


_NO_COOKIES = _NoCookies()


@implementer(IBodyProducer)
class _WholeBody:
    """Writes the body right behind the headers; treq's own way sends it a turn later."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)  # type: ignore[call-arg, misc]  # Twisted's interface has no self
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written already."""

    def resumeProducing(self) -> None:
        """All is written already."""

    def stopProducing(self) -> None:
        """All is written already."""


@implementer(IAgentEndpointFactory)
class _UriEndpoints:
    """Chooses TLS or plain TCP by the scheme; the few hosts come from our configuration."""

    def __init__(self, endpoints: TcpEndpoints, tls: ClientTLS) -> None:
        self._endpoints = endpoints
        self._tls = tls
        self._known: dict[tuple[bytes, bytes, int], IStreamClientEndpoint] = {}

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        key = uri.scheme, uri.host, uri.port
        endpoint = self._known.get(key)
        if endpoint is None:
            endpoint = self._known[key] = self._endpoint(*key)
        return endpoint

    def _endpoint(self, scheme: bytes, encoded_host: bytes, port: int) -> IStreamClientEndpoint:
        host = encoded_host.decode("ascii")
        endpoint = self._endpoints(host, port)
        return wrapClientTLS(self._tls(host), endpoint) if scheme == b"https" else endpoint


class _Lease:
    """
    One request's view of the pool: it remembers the connection, to be able to abort it.

    Twisted gives the reader of a body only ``loseConnection``, which over TLS waits for
    a peer that may have stalled.
    """

    persistent = True

    def __init__(self, pool: HTTPConnectionPool) -> None:
        self._pool = pool
        self._connection: Any = None

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        return self._pool.getConnection(key, endpoint).addCallback(self._remember)

    def _remember(self, connection: Any) -> Any:
        self._connection = connection
        return connection

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.transport.abortConnection()


class _Body(Protocol):
    """Collects at most ``limit`` bytes; fires with them and whether they were all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._content = bytearray()
        self.done: Deferred[tuple[bytes, bool]] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._content += data
        if len(self._content) > self._limit:
            self.done.callback((bytes(self._content[: self._limit]), False))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback((bytes(self._content), True))
        else:
            self.done.errback(reason)


def _read(response: IResponse, limit: int) -> Deferred[tuple[bytes, bool]]:
    body = _Body(limit)
    response.deliverBody(body)  # type: ignore[call-arg, misc]  # Twisted's interface has no self
    return body.done


def _headers(headers: Mapping[str, str | bytes]) -> Headers:
    raw = Headers()
    for name, value in headers.items():
        raw.setRawHeaders(name, [value])
    return raw


def _none_free(_result: object, timeout_s: float) -> Failure:
    return Failure(TimedOut(f"no connection was free within {timeout_s:.3g} s"))


def _timed_out(_result: object, timeout_s: float) -> Failure:
    return Failure(TimedOut(f"no answer within {timeout_s:.3g} s"))


def _translated(error: Exception) -> Exception:
    """What our callers know instead of Twisted's errors, which quote what peers sent."""
    reasons = [each.value for each in getattr(error, "reasons", ())] or [error]
    if any(isinstance(each, CancelledError) for each in reasons):
        return CancelledError()
    words = "; ".join(map(_words, reasons))
    unanswered = isinstance(error, ResponseNeverReceived | RequestTransmissionFailed)
    if unanswered and all(isinstance(each, ConnectionClosed) for each in reasons):
        return Dropped(words)
    return OutgoingFailed(words)


def _words(error: BaseException) -> str:
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return f"TLS: {error.args[0][0][2]}"
    if isinstance(error, ConnectError | ConnectionClosed | DNSLookupError):
        return str(error)
    return type(error).__name__
