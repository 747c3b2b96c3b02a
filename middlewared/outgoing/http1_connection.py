"""
One HTTP/1.1 connection: Twisted's, with bounds on answers and a record of what was sent.

It is always known whether all of a request has left this process, also after the connection
was lost.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.python.failure import Failure
from twisted.web._newclient import STATUS, HTTP11ClientProtocol, HTTPClientParser
from twisted.web.iweb import IResponse
from zope.interface import implementer

from middlewared.clock import Clock, DelayedCall
from middlewared.errors import MiddlewaredError

CLOSING_S = 5.0
"""How long the peer may take to confirm a close, for which TLS waits."""
MOST_HEAD_BYTES = 65_536
MOST_HEAD_LINES = 1000
MOST_INTERIM = 10
MOST_FRAMING = 8
"""Bytes on the wire for each byte of a body; a chunk of one byte takes six."""

# The peer has closed, even if its last bytes were not read (where the system supports it).
_CLOSED_BY_PEER = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Owner(Protocol):
    """The pool that keeps the connection."""

    def opened(self, connection: Http1Connection) -> None:
        """TCP is connected; a TLS handshake may follow."""

    def keep(self, connection: Http1Connection) -> None:
        """An answer was read completely: keep the connection for the next request."""

    def lost(self, connection: Http1Connection) -> None:
        """It has ended."""


class Watcher(Protocol):
    """Notified about the progress of a request."""

    def sent(self) -> None:
        """All of the request was handed to the connection."""

    def heard(self) -> None:
        """A byte of the answer has arrived; called at least for the first one."""


class AnswerTooLong(MiddlewaredError):
    """The peer's answer exceeds a limit."""


class BoundedParser(HTTPClientParser):
    """
    A parser with limits; its exceptions end the request and the connection.

    Twisted limits a line, the size line of a chunk and the trailers, but neither the lines of
    an answer's head nor the interim answers (1xx) before it.

    :param most_raw: the limit in bytes of a body with its framing.
    :ivar status: the answer's status; None: not read yet.
    """

    response: Any

    def __init__(self, request: Any, finisher: Callable[[bytes], None], most_raw: int) -> None:
        super().__init__(request, finisher)  # type: ignore[no-untyped-call]
        self.status: int | None = None
        self._most_raw = most_raw
        self._raw = self._head_bytes = self._lines = self._heads = 0

    def lineReceived(self, line: bytes) -> None:
        self._lines += 1
        self._head_bytes += len(line) + 1
        if self._head_bytes > MOST_HEAD_BYTES or self._lines > MOST_HEAD_LINES:
            raise AnswerTooLong("the answer's head is too long")
        if self.state == STATUS:
            self._heads += 1
            if self._heads > MOST_INTERIM + 1:
                raise AnswerTooLong("too many interim answers")
        super().lineReceived(line)  # type: ignore[no-untyped-call]

    def statusReceived(self, status: bytes) -> None:
        super().statusReceived(status)  # type: ignore[no-untyped-call]
        if 200 <= self.response.code <= 599:
            self.status = self.response.code

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        raise AnswerTooLong("a line of the answer's head is too long")

    def rawDataReceived(self, data: bytes) -> None:
        self._raw += len(data)
        if self._raw > self._most_raw:
            raise AnswerTooLong("the answer's chunks have too much around them")
        super().rawDataReceived(data)  # type: ignore[no-untyped-call]


@implementer(IHandshakeListener)
class Http1Connection(HTTP11ClientProtocol):
    """
    :param secure: whether a TLS handshake comes first.
    :ivar host: the peer, as its owner names it.
    :ivar is_established: whether a request can be sent.
    :ivar opened_at: when a request could first be sent.
    :ivar handshake_s: how long the TLS handshake took, one or two round trips; 0: none.
    :ivar heard_at: when the peer last sent a byte, or the connection was opened.
    :ivar closing: whether it is being closed.
    :ivar watcher: notified about the current request; None while idle.
    """

    _parser: Any
    _transportProxy: Any
    transport: Any

    def __init__(
        self, *, clock: Clock, owner: Owner, host: Hashable, secure: bool, max_body_bytes: int
    ) -> None:
        super().__init__(owner.keep)  # type: ignore[no-untyped-call]
        self.host = host
        self._clock = clock
        self._owner = owner
        self._secure = secure
        self._most_raw = MOST_HEAD_BYTES + MOST_FRAMING * max_body_bytes
        self._tcp: Any = None
        self._poll = select.poll()
        self._close_timer: DelayedCall | None = None
        self._answer: BoundedParser | None = None
        self._unsent = 0
        self._gone = False
        self.closing = False
        self._waiting: Deferred[Http1Connection] | None = None
        self.is_established = False
        self.opened_at = self.heard_at = clock.seconds()
        self.handshake_s = 0.0
        self.watcher: Watcher | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self._tcp = self.transport.transport if self._secure else self.transport
        self._count()
        self._poll.register(self._tcp.fileno(), _CLOSED_BY_PEER)
        self._owner.opened(self)
        self.opened_at = self._clock.seconds()
        if not self._secure:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        now = self._clock.seconds()
        self.handshake_s = now - self.opened_at
        self.opened_at = self.heard_at = now
        self.is_established = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(self)

    def when_established(self) -> Deferred[Http1Connection]:
        """Fires when a request can be sent, or fails; for one caller, which may cancel it."""
        waiting: Deferred[Http1Connection] = Deferred(self._not_wanted)
        if self.is_established:
            waiting.callback(self)
        else:
            self._waiting = waiting
        return waiting

    def request(self, request: Any) -> Deferred[IResponse]:
        answer = super().request(request)
        if self._parser is not None:
            # Twisted has no hook to choose the parser, so it is replaced.
            parser = BoundedParser(request, self._finishResponse, self._most_raw)
            parser._responseDeferred = self._parser._responseDeferred
            parser.makeConnection(self._transportProxy)  # type: ignore[no-untyped-call]
            self._parser = self._answer = parser
        self._written()
        if self.watcher is not None:
            self.watcher.sent()
        return answer

    def dataReceived(self, bytes: bytes) -> None:
        self.heard_at = self._clock.seconds()
        if self.watcher is not None:
            self.watcher.heard()
        super().dataReceived(bytes)  # type: ignore[no-untyped-call]

    # In Twisted an attribute that dispatches on the state.
    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        self._gone = True
        self._owner.lost(self)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(reason)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    @property
    def status(self) -> int | None:
        """The status of the answer to the last request; None: not read yet."""
        return None if self._answer is None else self._answer.status

    @property
    def is_flushed(self) -> bool:
        """Whether all of the last request has left this process."""
        return self._unsent <= 0

    def is_usable(self) -> bool:
        """Whether a request may be sent: none is in progress, and the peer has not closed."""
        if self._gone or self.closing or self.state != "QUIESCENT":
            return False
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close it; the peer has ``CLOSING_S`` to confirm."""
        if not (self.closing or self._gone):
            self.closing = True
            self._close_timer = self._clock.callLater(CLOSING_S, self._close_timed_out)
            self.transport.loseConnection()

    def abandon(self) -> None:
        """Close it at once, without waiting for the peer."""
        if not self._gone:
            self.closing = True
            self.transport.abortConnection()

    def _count(self) -> None:
        """Count the bytes that leave: after a request, TLS may write records of its own."""
        write_some = self._tcp.writeSomeData

        def counted(data: Any) -> Any:
            written = write_some(data)
            if isinstance(written, int):
                self._unsent -= written
            return written

        self._tcp.writeSomeData = counted

    def _written(self) -> None:
        """A request was written: count from now on until its last byte has left."""
        aggregator = getattr(self.transport, "_aggregator", None)  # TLS collects small writes
        if aggregator is not None:
            aggregator.flush()
        tcp = self._tcp
        self._unsent = len(tcp.dataBuffer) - tcp.offset + tcp._tempDataLen

    def _giveUp(self, reason: Failure) -> None:
        super()._giveUp(reason)  # type: ignore[no-untyped-call]
        self.close()

    def _not_wanted(self, waiting: Deferred[Http1Connection]) -> None:  # noqa: ARG002
        self._waiting = None
        self.abandon()

    def _close_timed_out(self) -> None:
        self._close_timer = None
        self.abandon()
