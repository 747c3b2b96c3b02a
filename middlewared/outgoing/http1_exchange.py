"""
One HTTP/1.1 exchange: a request and its answer, through treq over one connection.

When an exchange ends (answered, failed or cancelled), its connection is idle in the pool or
closing, and its :class:`~.interface.Progress` is set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IConsumer
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from middlewared.outgoing.http1_pool import ConnectionPool, Http1Connection
from middlewared.outgoing.interface import (
    AnswerTimes,
    Dropped,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TimedOut,
    Unwanted,
)
from middlewared.waiting import FairCall

MOST_HEAD_BYTES = 65_536
"""Of an answer's head, with the interim answers (1xx) before it."""
MOST_FRAMING = 8
"""Bytes on the wire for each byte of a body; a chunk of one byte takes six."""
TOO_LONG = "the answer's head, or what surrounds its chunks, is too long"

# After any number of interim answers.
_STATUS = re.compile(
    rb"(?:HTTP/1\.[01] 1[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n)*HTTP/1\.[01] ([2-5][0-9]{2})[ \r\n]"
)


@attrs.define(kw_only=True, eq=False, repr=False)
class Http1Exchange:
    """
    One request, as :meth:`.interface.HttpClient.request` describes it, and its result.

    :param max_body_bytes: the limit at which the answer's body is cut.
    """

    _treq: HTTPClient
    _pool: ConnectionPool
    _clock: Any
    _max_body_bytes: int
    _method: str
    _url: str
    _headers: Mapping[str, str | bytes]
    _body: bytes | None
    _wanted: Callable[[], bool] | None
    _times: AnswerTimes | None
    _progress: Progress
    _connection: Http1Connection | None = attrs.field(default=None, init=False)
    _producer: RequestBody | None = attrs.field(default=None, init=False)
    _sent_at: float = attrs.field(default=0.0, init=False)
    _received: int = attrs.field(default=0, init=False)
    _head: bytearray = attrs.field(factory=bytearray, init=False)
    _response: Any = attrs.field(default=None, init=False)
    _content: bytearray = attrs.field(factory=bytearray, init=False)
    _limit: FairCall | None = attrs.field(default=None, init=False)
    _leaving: FairCall | None = attrs.field(default=None, init=False)
    _has_left: bool = attrs.field(default=False, init=False)
    _ended_by: Exception | None = attrs.field(default=None, init=False)
    _running: Deferred[HttpResponse] | None = attrs.field(default=None, init=False)

    def run(self, timeout_s: float) -> Deferred[HttpResponse]:
        """Send the request and read its answer; fails as :meth:`.interface.HttpClient.request`."""
        self._limit_to(timeout_s)
        ended: Deferred[HttpResponse] = Deferred(lambda _: self._end(CancelledError()))
        self._running = running = Deferred.fromCoroutine(self._run())
        running.chainDeferred(ended)
        return ended

    async def _run(self) -> HttpResponse:
        try:
            host = self._pool.host(self._url)
            kept = host.latest()
            connection = kept or await host.open()
            if self._wanted is not None and not self._wanted():
                raise Unwanted("not wanted any more")
            return await self._ask(connection, kept is not None)
        except Unwanted:
            raise
        except Exception as error:  # a peer can make the layers below raise nearly anything
            translated = self._translated(error)
            self._record()
            raise translated from error
        finally:
            self._end_timers()

    async def _ask(self, connection: Http1Connection, is_kept: bool) -> HttpResponse:
        self._connection, connection.on_data = connection, self._heard
        self._producer = RequestBody(self._body) if self._body else None
        headers: Any = dict(self._headers)
        data: Any = self._producer
        answering = self._treq.request(
            self._method,
            self._url,
            headers=headers,
            data=data,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._clock,
        )
        self._sent(connection, is_kept)
        self._response = response = await answering
        complete = True
        try:
            await response.collect(self._collect)
        except _TooLong:
            complete = False
            connection.abortConnection()
        self._progress.sent_at = self._sent_at
        return HttpResponse(response.code, response.headers, bytes(self._content), complete)

    def _collect(self, data: bytes) -> None:
        self._content += data
        if len(self._content) > self._max_body_bytes:
            del self._content[self._max_body_bytes :]
            raise _TooLong

    def _heard(self, data: bytes) -> None:
        """Bytes of the answer have arrived, which are parsed next."""
        if self._connection is not None and not self._received:
            latency = self._connection.factory.latency
            latency.answered(self._clock.seconds() - self._sent_at)
        most = MOST_HEAD_BYTES
        if self._response is None:
            self._head += data
        else:
            most += MOST_FRAMING * self._max_body_bytes
        if self._received > most:
            self._end(OutgoingFailed(TOO_LONG))
        self._received += len(data)

    def _sent(self, connection: Http1Connection, is_kept: bool) -> None:
        self._sent_at = self._clock.seconds()
        # What was written leaves in the next turn, unless the end of the connection is read first.
        self._leaving = FairCall(self._clock, 0.0, self._left, slices=1)
        times = self._times
        if times is not None and is_kept:
            patience_s = min(times.whole_s, connection.factory.latency.patience_s())
            self._restart_limit(patience_s, self._silent, patience_s, times)
        elif times is not None:
            self._limit_to(times.whole_s)

    def _left(self) -> None:
        """All that the connection accepted has left this process."""
        self._has_left = True

    def _silent(self, waited_s: float, times: AnswerTimes) -> None:
        """The time for the first byte on a kept connection is up."""
        longest_s = times.whole_s
        if self._connection is not None and not self._received:
            self._connection.factory.drop_unheard(self._sent_at)
            longest_s = max(waited_s, min(longest_s, times.kept_s))
        self._limit_to(longest_s, longest_s - waited_s)

    def _limit_to(self, longest_s: float, left_s: float | None = None) -> None:
        late = TimedOut(f"no answer within {longest_s:.3g} s")
        self._restart_limit(longest_s if left_s is None else left_s, self._end, late)

    def _restart_limit(self, *call: Any) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = FairCall(self._clock, *call)

    def _end_timers(self) -> None:
        for timer in (self._limit, self._leaving):
            if timer is not None:
                timer.cancel()

    def _end(self, reason: Exception) -> None:
        """Fail with ``reason``."""
        self._ended_by = reason
        if self._running is not None:
            self._running.cancel()

    def _record(self) -> None:
        """Record how far the failed request got, for the caller, and close its connection."""
        connection, progress = self._connection, self._progress
        if connection is None:
            return
        status = _STATUS.match(self._head)
        if self._response is not None:
            code, headers = self._response.code, self._response.headers
            progress.partial = HttpResponse(code, headers, bytes(self._content), False)
        elif status is not None:
            progress.partial = HttpResponse(int(status[1]), Headers(), b"", False)
        is_written = self._producer is None or self._producer.is_written
        if progress.partial or (is_written and self._has_left):
            progress.sent_at = self._sent_at
        if connection.on_data is not None:
            connection.abortConnection()

    def _translated(self, error: Exception) -> Exception:
        """Our own error instead of Twisted's, whose texts quote what peers sent."""
        if self._ended_by is not None:
            return self._ended_by
        if not all(isinstance(each, ConnectionClosed) for each in _causes(error)):
            return OutgoingFailed(explain(error))
        if self._connection is not None and self._connection.disconnecting:
            # Twisted's parser closes the connection at a long line, and gives no reason.
            return OutgoingFailed(TOO_LONG)
        return (OutgoingFailed if self._received else Dropped)(explain(error))


class _TooLong(Exception):
    """The limit of the body is reached."""


@implementer(IBodyProducer)
class RequestBody:
    """
    Written together with the headers; treq's own producer writes one turn later.

    :ivar is_written: whether the connection has accepted all of it, so that it may have left.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)
        self._rest: Deferred[None] | None = None
        self.is_written = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._content)  # type: ignore[call-arg, misc]  # Twisted's interface has no self
        self.is_written = self._rest is None
        return self._rest or succeed(None)

    def pauseProducing(self) -> None:
        """The connection has buffered more of it than it sends at once."""
        if self._rest is None and not self.is_written:
            self._rest = Deferred()

    def resumeProducing(self) -> None:
        """The connection has sent what it had buffered."""
        if self._rest is not None and not self._rest.called:
            self.is_written = True
            self._rest.callback(None)

    def stopProducing(self) -> None:
        """The connection is lost."""


def _causes(error: BaseException) -> list[BaseException]:
    return [each.value for each in getattr(error, "reasons", ())] or [error]


def explain(error: BaseException) -> str:
    """Why a request failed, without text that a peer sent."""
    return "; ".join(map(_explain, _causes(error)))


def _explain(error: BaseException) -> str:
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return f"TLS: {error.args[0][0][2]}"
    if isinstance(error, ConnectError | ConnectionClosed | DNSLookupError):
        return str(error)
    return type(error).__name__
