"""
One TCP and TLS connection to Apple: the session's bytes, and its signs of life.

The one invariant: a connection on which pushes wait gets an answer or a PING ACK within
the time its round trip allows, or it ends; when it ends, so do all its exchanges.
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
"""Connections with a sign of life within this time are equally good for new pushes."""

DISTRUST_S = 5.0
DISTRUST_LOAD = 1_000_000.0
CLOSE_TIMEOUT_S = 2.0

MAX_UNSENT_FRAMES = 8_192
"""How many answers to PING and SETTINGS a peer may provoke without reading them."""

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

    :param room: called when more exchanges may be opened than before.
    :param unprocessed: gets each exchange that may be sent over another connection.
    :param doubted: called when a sign of life is overdue: the path may be dead.
    :param measured: gets each round trip, in seconds.
    """

    log = Logger()
    transport: Any  # Twisted names no type for TLS over TCP with a producer

    def __init__(
        self,
        *,
        clock: Clock,
        room: Callable[[], None],
        unprocessed: Callable[[Exchange], None],
        doubted: Callable[[], None] = lambda: None,
        measured: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.session = Session(unprocessed=unprocessed)
        self.ready: Deferred[None] = Deferred(lambda _: self.abort("connect timed out"))
        """Fires at the peer's first SETTINGS, fails when the connection ends before."""

        self.left: Deferred[None] = Deferred()
        """Fires when no more exchanges can be opened; never fails."""

        self.closed: Deferred[None] = Deferred()
        """Fires when the connection is gone; never fails."""

        self.why = ""
        """Why it was left, in a few words; "" until then."""

        self.broken = False
        """Whether it was left because of a fault of the peer or the path."""

        self.ready_at = 0.0
        """When ``ready`` fired."""

        self.doubt = doubted
        self.measured = measured
        self.liveness = Liveness(self, clock=clock)
        self._distrusted_until = -inf
        self._good_until = -inf
        self._resets = float(RESETS_AT_ONCE)
        self._reset_at = 0.0
        self._clock = clock
        self._room = room
        self._paused = False
        self._closing = True
        self._ending = "connection lost"
        self._made_at = 0.0
        self._receiving = False
        self._refused: Exception | None = None
        self._flushing: DelayedCall | None = None
        self._cutting: DelayedCall | None = None

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
        return not (self._paused or self.liveness.doubtful) and self.session.can_open

    def load(self, now: float) -> float:
        """How little this connection is to be preferred."""
        load = len(self.session.streams)
        if now > self._good_until:
            age_s = now - self.liveness.heard_at
            stale = MAX_STREAMS + age_s if age_s > FRESH_S else 0
            return load + stale + (DISTRUST_LOAD if self._distrusted_until > now else 0)
        return load

    def send(self, exchange: Exchange) -> None:
        """Open a stream; what is sent in one turn of the reactor is written at once."""
        if not self.session.streams:
            self.liveness.expect()
        self.session.open(exchange)
        self._flush_soon()

    def give_up(self, exchange: Exchange) -> bool:
        """Reset the stream of ``exchange``; False: no further one may be reset now."""
        if self.session.streams.get(exchange.stream_id) is not exchange:
            return True
        # A request that the peer has only in part must not be continued.
        if exchange.whole and not self._may_reset():
            return False
        self.session.give_up(exchange)
        self._flush_soon()
        self._settle()
        return True

    def relieve(self) -> None:
        """Leave, if most streams are taken by pushes for which no one waits."""
        streams = self.session.streams.values()
        if 2 * sum(exchange.over for exchange in streams) > min(self.session.limit, MAX_STREAMS):
            self.broken = True
            self.leave("most pushes are not answered")

    def distrust(self) -> None:
        """Prefer other connections for a while."""
        self._distrusted_until = self._clock.seconds() + DISTRUST_S
        self._trust()

    def _trust(self) -> None:
        """Update until when it is trusted."""
        heard_at = self.liveness.heard_at
        distrusted = self._distrusted_until > heard_at
        self._good_until = -inf if distrusted else heard_at + FRESH_S

    def leave(self, why: str) -> None:
        """Open no more; close when the last exchange has ended."""
        self.why = self.why or why
        self.session.leaving = True
        self._settle()

    def close(self, reason: str) -> None:
        """Close now; exchanges in flight end for ``reason``."""
        self._ending = self.why = reason
        self.session.close(ErrorCodes.NO_ERROR, reason)
        self._settle()

    def abort(self, reason: str) -> None:
        """Drop the connection without a goodbye; its exchanges end for ``reason``."""
        self._ending = self.why = reason
        self.broken = True
        self._closing = True
        self.session.leaving = True
        self._settle()
        self.transport.abortConnection()

    # From the transport.

    def connectionMade(self) -> None:
        self._closing = False
        self._made_at = self._clock.seconds()
        self.transport.registerProducer(self, True)
        self.session.start()
        self.flush()

    def handshakeCompleted(self) -> None:
        """TLS is established: check that the peer chose HTTP/2."""
        if self.transport.negotiatedProtocol != b"h2":
            self._refused = NoHttp2()
            self.abort(str(self._refused))

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        session = self.session
        was_ready, signs = session.ready, session.signs
        self._receiving = True
        try:
            session.receive(data)
        except ProtocolFault as fault:
            self._break(fault)
            return
        finally:
            self._receiving = False
        if session.signs != signs:
            self.liveness.heard()
            self._trust()
        if session.ready and not was_ready:
            self.ready_at = self._clock.seconds()
            self.liveness.begin(self.ready_at - self._made_at)
            self.ready.callback(None)
        if self.can_open:
            self._room()
        self.flush()
        self._settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self.liveness.stop()
        for timer in (self._cutting, self._flushing):
            if timer is not None and timer.active():
                timer.cancel()
        if not self.why:
            self.why = describe_loss(reason.value)
        self.session.close(ErrorCodes.NO_ERROR, self._ending)
        self._settle()
        if not self.ready.called:
            self.ready.errback(self._refused or reason)
        self.closed.callback(None)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self.flush()
        if self.can_open:
            self._room()

    def stopProducing(self) -> None:
        self._paused = True

    # Writing.

    def _flush_soon(self) -> None:
        if self._flushing is None and not self._receiving:
            self._flushing = self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Write the output of the session, unless the transport is full."""
        if self._flushing is not None:
            if self._flushing.active():
                self._flushing.cancel()
            self._flushing = None
        if self._closing:
            return
        if self._paused:
            if self.session.sender.unsent > MAX_UNSENT_FRAMES:
                self.abort("the peer does not read")
        elif data := self.session.sender.take(self._clock.seconds()):
            self.transport.write(data)

    # Ending.

    def _settle(self) -> None:
        """Report that we are leaving; close after the last exchange that is still awaited."""
        if not self.session.leaving:
            return
        if not self.left.called:
            self.left.callback(None)
        if not self._closing and all(each.over for each in self.session.streams.values()):
            self.flush()
            self._lose()

    def _lose(self) -> None:
        """Close after the last byte, but do not wait long for the peer to do the same."""
        self._closing = True
        self.liveness.stop()
        self._cutting = self._clock.callLater(CLOSE_TIMEOUT_S, self.transport.abortConnection)
        self.transport.unregisterProducer()  # a transport waits for it
        self.transport.loseConnection()

    def _break(self, fault: ProtocolFault) -> None:
        self._ending = "protocol error"
        self.why = f"Apple's side broke HTTP/2: {fault}"
        self.broken = True
        self.session.close(fault.code, self._ending)
        self._settle()

    def fell_silent(self) -> None:
        """No sign of life came in time: drop it, as its path may be dead."""
        self.abort("connection silent")

    def _may_reset(self) -> bool:
        now = self._clock.seconds()
        earned = (now - self._reset_at) * RESETS_PER_S
        self._resets, self._reset_at = min(self._resets + earned, RESETS_AT_ONCE), now
        if self._resets < 1:
            return False
        self._resets -= 1
        return True
