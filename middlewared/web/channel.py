"""
One HTTP connection, with the limits that twisted.web does not have.

Whatever a connection sends and however little it reads, what it may cost (memory, time,
descriptors) is bounded. A request that is being served has no time-out.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.python.failure import Failure
from twisted.web import http

from middlewared.clock import Clock, DelayedCall
from middlewared.immediate_writes import write_immediately
from middlewared.web.filters import PLAIN_START, EarlyRefusal, NotRefused, RequestFilter
from middlewared.web.replies import Reply, head_of
from middlewared.web.request import Request, host_of
from middlewared.web.settings import LiveSettings

MAX_PIECES = 8
"""A call that comes in more pieces is parsed: a filter reads all of them for each piece."""
LINGER_ABORT_S = 5
"""How long the client of a closed connection may take to read its last reply."""

_SET_LATER = (
    *("_receiving", "_busyReceiving", "_buffer", "_receivedHeaderSize", "_receivedHeaderCount"),
    *("_host", "_HTTPChannel__first_line", "_HTTPChannel__header", "length", "persistent"),
    *("line_mode", "_savedTimeOut", "_command", "_path", "_version"),
)
"""Attributes that the first request would add to a connection."""

RefuseBroken: TypeAlias = Callable[[bytes, int], Reply]
"""From a request target, empty when it could not be read, and a status."""


class ServingSite(Protocol):
    """What a connection needs of its site, a ``LimitedSite``."""

    clock: Clock
    settings: LiveSettings
    filters: Sequence[RequestFilter]
    connections: int
    refuse_broken: RefuseBroken


class Channel(http.HTTPChannel):
    """
    One connection.

    Its time-out is set once for each phase, and no byte prolongs it: waiting for a request,
    receiving one, waiting for the client to read its replies, and discarding what was
    refused.

    Requests that a client sends ahead of its replies (pipelining, RFC 9112 section 9.3.2)
    are served one in each turn of the reactor, and only while the replies are read. Until
    then they stay unread in the kernel.
    """

    site: ServingSite
    transport: Any
    _networkProducer: Any
    timeOut: float | None  # type: ignore[assignment]
    _command: Any = b""
    _path: Any = b""
    _version: Any = b""
    abortTimeout = LINGER_ABORT_S
    _receiving = False
    _discarding = False
    _waiting_for_turn = False
    _turn: DelayedCall | None = None
    _deadline = math.inf
    _timer: DelayedCall | None = None
    _host: IAddress | None = None
    _held_back = b""  # the beginning of a request that may be refused
    _pieces = 0

    def connectionMade(self) -> None:
        # So all connections have the same attributes, and Python keeps their names only once:
        # it saves 1 KiB for each, even if many are opened before the first request comes.
        for name in _SET_LATER:
            setattr(self, name, getattr(self, name))
        settings = self.site.settings.current
        self.timeOut = min(settings.request_timeout_s, settings.idle_timeout_s)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.site.connections -= 1
        super().connectionLost(reason)
        timers = (self._timer, self._turn)
        self._timer = self._turn = None
        for timer in timers:
            if timer is not None:
                timer.cancel()

    @property
    def is_idle(self) -> bool:
        """
        Whether the next byte begins a request that may be answered at once.

        No request is being received or served, nothing is buffered, no reply waits beyond
        the transport's buffer, and the connection is not being closed.
        """
        return not (
            self._receiving
            or self._handlingRequest  # also while the next request waits for its turn
            or self._discarding
            or self._waitingForTransport
            or self._buffer
            or not self.persistent
            or self._abortingCall is not None
        )

    def getHost(self) -> IAddress:
        """Called by Twisted for every request; its own version costs a system call each time."""
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def write(self, data: bytes) -> None:
        """Called with each reply."""
        write_immediately(self.transport, data)

    def resetTimeout(self) -> None:
        """Called by Twisted for all data; its version would let slow senders stay connected."""

    def setTimeout(self, period: float | None) -> float | None:
        """
        Set the deadline; the running timer fires before it and starts again.

        Every request has three phases, and to move a timer costs Twisted a search among the
        timers of all connections.
        """
        before, self.timeOut = self.timeOut, period
        if period is None:
            self._deadline = math.inf
        else:
            self._deadline = self.site.clock.seconds() + period
            if self._timer is None:
                self._start_timer(period)
        return before

    def _start_timer(self, period: float) -> None:
        settings = self.site.settings.current
        shortest = min(period, settings.request_timeout_s, settings.idle_timeout_s)
        self._timer = self.callLater(shortest, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        left_s = self._deadline - self.site.clock.seconds()
        if left_s <= 0:
            self._deadline = math.inf
            self.timeoutConnection()
        elif left_s < math.inf:
            self._start_timer(left_s)

    def dataReceived(self, data: bytes) -> None:
        if self._discarding:
            return
        if self._held_back or data.startswith(PLAIN_START):
            data = self._filter(data)
            if not data:
                return
        if not (self._receiving or self._handlingRequest):
            self._receiving = True
            self.setTimeout(self.site.settings.current.request_timeout_s)
        super().dataReceived(data)

    def _filter(self, data: bytes) -> bytes:
        """What remains to be parsed of ``data``: nothing when a filter has refused it."""
        idle, pieces = bool(self._held_back) or self.is_idle, self._pieces
        if self._held_back:
            data, self._held_back, self._pieces = self._held_back + data, b"", 0
        filters = (each for each in self.site.filters if data.startswith(each.request_line))
        chosen = next(filters, None)
        if chosen is None or not (idle and chosen.active):
            return data
        found = chosen.filter(data, host_of(self.getPeer()))
        if isinstance(found, EarlyRefusal):
            self._receiving = False
            self.setTimeout(self.site.settings.current.idle_timeout_s)
            self.write(found.reply)
            if found.close:
                self.loseConnection()
            return b""
        if found is NotRefused.SERVE or pieces == MAX_PIECES:
            return data
        if not self._receiving:
            self._receiving = True
            self.setTimeout(self.site.settings.current.request_timeout_s)
        self._held_back, self._pieces = data, pieces + 1
        return b""

    def rawDataReceived(self, data: bytes) -> None:
        if self._discarding:
            return  # what came in one piece with the bytes that were refused
        if not self._handlingRequest:
            super().rawDataReceived(data)
            return
        # Twisted would not pause here while replies wait to be read.
        self._dataBuffer.append(data)
        if self._reads_ahead_too_far():
            self._networkProducer.pauseProducing()

    def _reads_ahead_too_far(self) -> bool:
        """
        Whether so much is buffered behind a request that reading must pause.

        Some is read ahead, because a client that hangs up is noticed only by reading.
        """
        return sum(map(len, self._dataBuffer)) > self._optimisticEagerReadSize

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        self._refuse(431)

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        keep_alive = self.site.settings.keep_alive
        return keep_alive and cast(bool, super().checkPersistence(request, version))

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        if header == b"Content-Length" and len(data) > 18 and data.isdigit():
            # Twisted's int() raises at 4300 digits; a body of 18 digits is too large anyway.
            data = (data.lstrip(b"0") or b"0")[:18]
        return cast(bool, super()._maybeChooseTransferDecoder(header, data))

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        if self.requests[-1].too_large:
            self.process_early()

    def _send100Continue(self) -> None:
        if not self.requests[-1].too_large:
            super()._send100Continue()

    def process_early(self) -> None:
        """The body is too large: have the request answered now, and close after that."""
        self.persistent = False
        self._discard()
        super().allContentReceived()

    def allContentReceived(self) -> None:
        if not self._discarding:
            self._receiving = False
            super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        self._savedTimeOut = None
        settings = self.site.settings.current
        discarding = self._discarding
        self.setTimeout(settings.request_timeout_s if discarding else settings.idle_timeout_s)
        more = self._waitingForTransport or self._buffer or any(self._dataBuffer)
        if more and self.persistent and not discarding:
            self._wait_for_turn(request)
        else:
            super().requestDone(request)

    def _wait_for_turn(self, request: Request) -> None:
        """Leave what follows ``request`` to a later turn, and read nothing until then."""
        self.requests.remove(request)
        self._waiting_for_turn = True
        self._networkProducer.pauseProducing()
        self._take_turn_soon()

    def _take_turn_soon(self) -> None:
        if self._turn is None and not self._waitingForTransport:
            self._turn = self.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        """Serve the next request, unless its reply would wait behind unread ones."""
        self._turn = None
        if self._waitingForTransport or self._abortingCall is not None:
            return
        self._waiting_for_turn = self._handlingRequest = False
        data = b"".join(self._dataBuffer)
        self._dataBuffer = []
        self.setLineMode(data)
        paused = self._waiting_for_turn or self._waitingForTransport or self._abortingCall
        if not (paused or self._reads_ahead_too_far()):
            self._networkProducer.resumeProducing()

    def pauseProducing(self) -> None:
        """Called by the transport when much waits to be read by the client."""
        super().pauseProducing()
        if self._handlingRequest and not (self._waiting_for_turn or self._discarding):
            self.setTimeout(self.site.settings.current.idle_timeout_s)

    def resumeProducing(self) -> None:
        """Called by the transport when the client has read everything."""
        super().resumeProducing()
        if self._waiting_for_turn:
            self._take_turn_soon()
        elif self._handlingRequest and not self._discarding:
            self.setTimeout(None)

    def timeoutConnection(self) -> None:
        if self._receiving:
            self._refuse(408)
            self.setTimeout(None)
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        super().loseConnection()

    def loseConnection(self) -> None:
        """Close, but let a client that still sends read its reply first."""
        if not self._discarding:
            super().loseConnection()
        elif ISSLTransport.providedBy(self.transport):
            # TLS waits for the peer's close_notify, and reads on until then.
            super().loseConnection()
        else:
            self._networkProducer.unregisterProducer()
            self.transport.loseWriteConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        large = (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        )
        self._refuse(431 if large else 400)

    def _refuse(self, status: int) -> None:
        """Reply to broken HTTP, once, and close."""
        if self._discarding:
            return
        reply = self.site.refuse_broken(self._path, status)
        self.transport.write(head_of(reply, close=True) + reply.body)
        self._discard()
        self.loseConnection()

    def _discard(self) -> None:
        self._discarding = True
        self._receiving = False
        self.setRawMode()
        self.setTimeout(self.site.settings.current.request_timeout_s)
