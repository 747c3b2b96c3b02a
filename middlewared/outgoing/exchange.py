"""
One HTTP/1.1 exchange: treq over a pool of kept connections.

The one invariant: when an exchange ends (answered, failed or cancelled) its connection
is idle in the pool or closed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, cast

from hyperlink import EncodedURL
from OpenSSL import SSL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from middlewared.outgoing.bounded import AnswerTooLong, BoundedPool
from middlewared.outgoing.endpoints import UriEndpoints
from middlewared.outgoing.interface import Dropped, OutgoingFailed, Reply, TcpEndpoints
from middlewared.outgoing.tls import ClientTLS

IDLE_TIMEOUT_S = 120


class Exchanges:
    """
    Asks, over connections it keeps, and cuts bodies of answers at ``max_body_bytes``.

    :param max_connections: how many it keeps for each host; who asks bounds those in use.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        endpoints: TcpEndpoints,
        tls: ClientTLS,
        max_connections: int,
        max_body_bytes: int,
    ) -> None:
        self._reactor = reactor
        self._endpoints = UriEndpoints(endpoints, tls)
        self._max_body_bytes = max_body_bytes
        self._pool: HTTPConnectionPool = BoundedPool(reactor, max_body_bytes=max_body_bytes)
        self._pool.maxPersistentPerHost = max_connections
        self._pool.cachedConnectionTimeout = IDLE_TIMEOUT_S
        # A repeat is the business of whoever knows what is repeated.
        self._pool.retryAutomatically = False

    async def run(
        self, method: str, url: str, headers: Mapping[str, str | bytes], body: bytes | None
    ) -> Reply:
        """
        One request and its answer; has no deadline of its own.

        :raises Dropped: the peer closed the connection instead of answering.
        :raises OutgoingFailed: no connection, TLS refused, or the answer broke off.
        """
        lease = _Lease(self._pool)
        agent = Agent.usingEndpointFactory(self._reactor, self._endpoints, lease)
        client = HTTPClient(cast(IAgent, agent), _NO_COOKIES, cast(Any, _WholeBody))
        try:
            response = await client.request(
                method,
                _parsed(url),
                headers=_headers(headers),
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

    def close(self) -> Deferred[None]:
        """Close the connections that nobody uses."""
        closing: Deferred[None] = self._pool.closeCachedConnections()
        return closing


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
    if isinstance(error, ConnectError | ConnectionClosed | DNSLookupError | AnswerTooLong):
        return str(error)
    return type(error).__name__
