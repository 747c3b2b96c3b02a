"""
One TCP and TLS connection: the session's bytes, and its signs of life.

A connection on which requests wait receives a response or a PING ACK within the time its
round trip allows, or it ends; when it ends, so do all its exchanges.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.clock import Clock, DelayedCall
from middlewared.push.http2.exchange import Exchange
from middlewared.push.http2.failures import NoHttp2, describe_loss
from middlewared.push.http2.frames import ProtocolFault
from middlewared.push.http2.liveness import Liveness
from middlewared.push.http2.session import MAX_STREAMS, Session

FRESH_S = 5.0
"""Connections with a sign of life within this time are equally good for new requests."""

DISTRUST_S = 5.0
DISTRUST_LOAD = 1_000_000.0
CLOSE_TIMEOUT_S = 2.0

MAX_UNSENT_FRAMES = 8_192
"""How many ACKs of PING and SETTINGS a peer may provoke without reading them."""

RESETS_AT_ONCE = 100
RESETS_PER_S = 25.0
"""
How many streams we may reset: servers treat more as an attack (CVE-2023-44487) and close the
connection. nghttp2, for example, allows 1,000 at once and 33 a second.
"""


@implementer(IPushProducer, IHandshakeListener)
class Http2Connection(Protocol):
    """
    Created by a pool for one connection attempt.

    :param peer: the server's name, for the log.
    :param pings_at_rest: whether PINGs are sent while no request is in flight.
    :param on_capacity: called when exchanges may be opened.
    :param on_unprocessed: gets each exchange that may be sent over another connection.
    :param on_suspect: called when a sign of life is overdue: the path may be dead.
    :param on_round_trip: gets each round trip of a PING, in seconds.
    """

    log = Logger()
    transport: Any  # Twisted names no type for TLS over TCP with a producer

    def __init__(
        self,
        *,
        clock: Clock,
        on_capacity: Callable[[], None],
        on_unprocessed: Callable[[Exchange], None],
        on_suspect: Callable[[], None] = lambda: None,
        on_round_trip: Callable[[float], None] = lambda _: None,
        peer: str = "the peer",
        pings_at_rest: bool = True,
    ) -> None:
        self.session = Session(on_unprocessed=on_unprocessed)
        self.ready: Deferred[None] = Deferred(lambda _: self.abort("connect timed out"))
        """Fires at the peer's first SETTINGS, fails when the connection ends before."""

        self.left: Deferred[None] = Deferred()
        """Fires when no more exchanges can be opened; never fails."""

        self.closed: Deferred[None] = Deferred()
        """Fires when the connection is gone; never fails."""

        self.why = ""
        """Why it was left, in a few words; "" until then."""

        self.ours = False
        """Whether it was left because of a fault of our configuration."""

        self.broken = False
        """Whether it was left because of a fault of the peer or the path."""

        self.ready_at = 0.0
        """When ``ready`` fired."""

        self.on_suspect = on_suspect
        self.on_round_trip = on_round_trip
        self.liveness = Liveness(self, clock=clock, pings_at_rest=pings_at_rest)
        self._distrusted_until = -inf
        self._fresh_until = -inf
        self._resets_left = float(RESETS_AT_ONCE)
        self._resets_counted_at = 0.0
        self._clock = clock
        self._peer = peer
        self._on_capacity = on_capacity
        self._paused = False
        self._closing = True
        self._end_reason = "connection lost"
        self._connected_at = 0.0
        self._receiving = False
        self._alpn_failure: Exception | None = None
        self._flush_timer: DelayedCall | None = None
        self._abort_timer: DelayedCall | None = None

    def __repr__(self) -> str:
        return f"<Http2Connection {self.state}, {len(self.session.streams)} open>"

    @property
    def state(self) -> str:
        """``connecting``, ``ready`` or ``draining``."""
        if self.session.leaving:
            return "draining"
        return "ready" if self.session.ready else "connecting"

    @property
    def can_open(self) -> bool:
        """Whether an exchange may be sent here now."""
        return not (self._paused or self.liveness.suspect) and self.session.can_open

    def load(self, now: float) -> float:
        """For choosing a connection: the one with the least load is preferred."""
        load = len(self.session.streams)
        if now > self._fresh_until:
            age_s = now - self.liveness.heard_at
            stale = MAX_STREAMS + age_s if age_s > FRESH_S else 0
            return load + stale + (DISTRUST_LOAD if self._distrusted_until > now else 0)
        return load

    def send(self, exchange: Exchange) -> None:
        """Open a stream; all that is sent in one turn of the reactor is written in one piece."""
        if not self.session.streams:
            self.liveness.expect()
        self.session.open(exchange)
        self._flush_soon()

    def cancel(self, exchange: Exchange) -> bool:
        """Reset the stream of ``exchange``; False: no further stream may be reset now."""
        if self.session.streams.get(exchange.stream_id) is not exchange:
            return True
        # The rest of a request that the peer has only in part must never be sent.
        if exchange.sent_whole and not self._may_reset():
            return False
        self.session.cancel(exchange)
        self._flush_soon()
        self._settle()
        return True

    def leave_if_clogged(self) -> None:
        """Leave if most streams are taken by requests for which no one waits."""
        streams = self.session.streams.values()
        if 2 * sum(exchange.over for exchange in streams) > min(self.session.limit, MAX_STREAMS):
            self.broken = True
            self.leave("most pushes are not answered")

    def distrust(self) -> None:
        """Prefer other connections for a while."""
        self._distrusted_until = self._clock.seconds() + DISTRUST_S
        self._update_freshness()

    def _update_freshness(self) -> None:
        """Set until when it counts as fresh: never while it is distrusted."""
        heard_at = self.liveness.heard_at
        distrusted = self._distrusted_until > heard_at
        self._fresh_until = -inf if distrusted else heard_at + FRESH_S

    def leave(self, why: str, *, ours: bool = False) -> None:
        """Open no more exchanges; close when the last one has ended."""
        if not self.why:
            self.why, self.ours = why, ours
        self.session.leaving = True
        self._settle()

    def close(self, reason: str) -> None:
        """Close now; exchanges in flight end for ``reason``."""
        self._end_reason = self.why = reason
        self.session.close(ErrorCodes.NO_ERROR, reason)
        self._settle()

    def abort(self, reason: str) -> None:
        """Drop the connection without GOAWAY; its exchanges end for ``reason``."""
        self._end_reason = self.why = reason
        self.broken = True
        self._closing = True
        self.session.leaving = True
        self._settle()
        self.transport.abortConnection()

    # Called by the transport.

    def connectionMade(self) -> None:
        self._closing = False
        self._connected_at = self._clock.seconds()
        self.transport.registerProducer(self, True)
        self.session.start()
        self.flush()

    def handshakeCompleted(self) -> None:
        """TLS is established: check that the peer chose HTTP/2."""
        if self.transport.negotiatedProtocol != b"h2":
            self._alpn_failure = NoHttp2()
            self.abort(str(self._alpn_failure))

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        session = self.session
        was_ready, signs = session.ready, session.signs_of_life
        self._receiving = True
        try:
            session.receive(data)
        except ProtocolFault as fault:
            self._fail(fault)
            return
        finally:
            self._receiving = False
        if session.signs_of_life != signs:
            self.liveness.heard()
            self._update_freshness()
        if session.ready and not was_ready:
            self.ready_at = self._clock.seconds()
            self.liveness.start(self.ready_at - self._connected_at)
            self.ready.callback(None)
        if self.can_open:
            self._on_capacity()
        self.flush()
        self._settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self.liveness.stop()
        for timer in (self._abort_timer, self._flush_timer):
            if timer is not None and timer.active():
                timer.cancel()
        if not self.why:
            self.why = describe_loss(reason.value)
        self.session.close(ErrorCodes.NO_ERROR, self._end_reason)
        self._settle()
        if not self.ready.called:
            self.ready.errback(self._alpn_failure or reason)
        self.closed.callback(None)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self.flush()
        if self.can_open:
            self._on_capacity()

    def stopProducing(self) -> None:
        self._paused = True

    # Writing.

    def _flush_soon(self) -> None:
        if self._flush_timer is None and not self._receiving:
            self._flush_timer = self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Write the output of the session, unless the transport is full."""
        if self._flush_timer is not None:
            if self._flush_timer.active():
                self._flush_timer.cancel()
            self._flush_timer = None
        if self._closing:
            return
        if self._paused:
            if self.session.output.unsent > MAX_UNSENT_FRAMES:
                self.abort("the peer does not read")
        elif data := self.session.output.take(self._clock.seconds()):
            self.transport.write(data)

    # Ending.

    def _settle(self) -> None:
        """If no more exchanges are opened: report it, and close after the last awaited one."""
        if not self.session.leaving:
            return
        if not self.left.called:
            self.left.callback(None)
        if not self._closing and all(each.over for each in self.session.streams.values()):
            self.flush()
            self._close_gently()

    def _close_gently(self) -> None:
        """Close after the last byte; if the peer does not do so soon, abort."""
        self._closing = True
        self.liveness.stop()
        self._abort_timer = self._clock.callLater(CLOSE_TIMEOUT_S, self.transport.abortConnection)
        self.transport.unregisterProducer()  # the transport would wait for it
        self.transport.loseConnection()

    def _fail(self, fault: ProtocolFault) -> None:
        self._end_reason = "protocol error"
        self.why = f"{self._peer}'s side broke HTTP/2: {fault}"
        self.broken = True
        self.session.close(fault.code, self._end_reason)
        self._settle()

    def on_silent(self) -> None:
        """No sign of life came in time: drop the connection, as its path may be dead."""
        self.abort("connection silent")

    def _may_reset(self) -> bool:
        now = self._clock.seconds()
        earned = (now - self._resets_counted_at) * RESETS_PER_S
        self._resets_left = min(self._resets_left + earned, RESETS_AT_ONCE)
        self._resets_counted_at = now
        if self._resets_left < 1:
            return False
        self._resets_left -= 1
        return True
