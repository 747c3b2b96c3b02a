"""
One TCP and TLS connection to Apple: the session's bytes, and its signs of life.

The one invariant: a connection on which pushes wait hears an answer or a PING's ACK
every second, or it ends; when it ends, so do all its exchanges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.clock import Clock, DelayedCall
from middlewared.push.apns.exchange import End, Exchange
from middlewared.push.apns.frames import ProtocolFault
from middlewared.push.apns.session import MAX_STREAMS, Session
from middlewared.push.interface import Temporary

TICK_S = 0.25
PING_AFTER_TICKS = 2
SILENT_AFTER_TICKS = 4
"""
Time is counted in ticks of our own, so that a pause of this process blames nobody; and
what has arrived by the last tick is read before the connection is given up.
"""

KEEP_ALIVE_S = 300.0
"""Shorter than the memory of common address translators, longer than Apple frowns upon."""

DISTRUST_S = 5.0
CLOSE_TIMEOUT_S = 2.0

MAX_UNSENT_FRAMES = 8_192
"""How many answers to PING and SETTINGS a peer may provoke without reading them."""


@implementer(IPushProducer)
class Connection(Protocol):
    """
    Made by a pool for one connect.

    :param room: called when more exchanges may be opened than before.
    :param unprocessed: gets each exchange another connection may carry.
    """

    log = Logger()
    transport: Any  # Twisted names no type for TLS over TCP with a producer

    def __init__(
        self,
        *,
        clock: Clock,
        room: Callable[[], None],
        unprocessed: Callable[[Exchange], None],
    ) -> None:
        self.session = Session(unprocessed=unprocessed)
        self.ready: Deferred[None] = Deferred(lambda _: self.abort("connect timed out"))
        """Fires at the peer's first SETTINGS, fails when the connection ends before."""

        self.left: Deferred[None] = Deferred()
        """Fires when no more exchanges can be opened; never fails."""

        self.closed: Deferred[None] = Deferred()
        """Fires when the connection is gone; never fails."""

        self._distrusted_until = 0.0
        self._clock = clock
        self._room = room
        self._paused = False
        self._closing = True
        self._receiving = False
        self._ending: End | None = None
        self._flushing: DelayedCall | None = None
        self._watch: DelayedCall | None = None
        self._signs = 0
        self._quiet = 0
        self._asked = False
        self._resting = False

    def __repr__(self) -> str:
        return f"<Connection {self.state}, {len(self.session.streams)} open>"

    @property
    def state(self) -> str:
        """``connecting``, ``ready`` or ``draining``."""
        if self.session.leaving:
            return "draining"
        return "ready" if self.session.ready else "connecting"

    @property
    def can_open(self) -> bool:
        """Whether an exchange may be sent here now."""
        return not self._paused and self.session.can_open

    @property
    def load(self) -> int:
        """How little this connection is to be preferred."""
        load = len(self.session.streams)
        if self._distrusted_until and self._distrusted_until > self._clock.seconds():
            load += MAX_STREAMS
        return load

    def send(self, exchange: Exchange) -> None:
        """Open a stream; what is sent in one turn of the reactor is written at once."""
        if not self.session.streams and not self._asked:
            self._listen()
        self.session.open(exchange)
        self._flush_soon()

    def give_up(self, exchange: Exchange) -> None:
        """End the stream of ``exchange`` if it is one of ours."""
        if self.session.streams.get(exchange.stream_id) is exchange:
            self.session.give_up(exchange)
            self._flush_soon()
            self._settle()

    def distrust(self) -> None:
        """Prefer other connections for a while."""
        self._distrusted_until = self._clock.seconds() + DISTRUST_S

    def leave(self) -> None:
        """Open no more; close when the last exchange has ended."""
        self.session.leaving = True
        self._settle()

    def close(self, end: End) -> None:
        """Close now; exchanges in flight get ``end``."""
        self._ending = end
        self.session.close(ErrorCodes.NO_ERROR, end)
        self._settle()

    def abort(self, why: str) -> None:
        """Drop the connection without a word; its exchanges are to be sent again at once."""
        self._ending = Temporary(why, retry_after_s=0)
        self._closing = True
        self.session.leaving = True
        self._settle()
        self.transport.abortConnection()

    # From the transport.

    def connectionMade(self) -> None:
        self._closing = False
        self.transport.registerProducer(self, True)
        self.session.start()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        was_ready = self.session.ready
        self._receiving = True
        try:
            self.session.receive(data)
        except ProtocolFault as fault:
            self._break(fault)
            return
        finally:
            self._receiving = False
        if self.session.ready and not was_ready:
            self._watch_in(KEEP_ALIVE_S)
            self.ready.callback(None)
        if self.can_open:
            self._room()
        self._flush()
        self._settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        for timer in (self._watch, self._flushing):
            if timer is not None and timer.active():
                timer.cancel()
        end = self._ending or Temporary("connection lost", retry_after_s=0)
        self.session.close(ErrorCodes.NO_ERROR, end)
        self._settle()
        if not self.ready.called:
            self.ready.errback(reason)
        self.closed.callback(None)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._flush()
        if self.can_open:
            self._room()

    def stopProducing(self) -> None:
        self._paused = True

    # Writing.

    def _flush_soon(self) -> None:
        if self._flushing is None and not self._receiving:
            self._flushing = self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            if self._flushing.active():
                self._flushing.cancel()
            self._flushing = None
        if self._paused:
            if self.session.sender.unsent > MAX_UNSENT_FRAMES:
                self.abort("the peer does not read")
        elif (data := self.session.sender.take()) and not self._closing:
            self.transport.write(data)

    # Ending.

    def _settle(self) -> None:
        """Tell that we are leaving; close after the last exchange."""
        if not self.session.leaving:
            return
        if not self.left.called:
            self.left.callback(None)
        if not self.session.streams and not self._closing:
            self._flush()
            self._lose()

    def _lose(self) -> None:
        """Close after the last byte, but do not wait long for the peer to do the same."""
        self._closing = True
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        self._watch = self._clock.callLater(CLOSE_TIMEOUT_S, self.transport.abortConnection)
        self.transport.unregisterProducer()  # a transport waits for it
        self.transport.loseConnection()

    def _break(self, fault: ProtocolFault) -> None:
        self.log.error("Apple's side broke HTTP/2: {what}", what=str(fault))
        self._ending = Temporary("protocol error", retry_after_s=0)
        self.session.close(fault.code, self._ending)
        self._settle()

    # Signs of life.

    def _listen(self) -> None:
        """The first exchange after a rest: from now on silence counts."""
        self._signs = self.session.signs
        self._quiet = 0
        if self._watch is not None:
            self._watch_in(TICK_S)

    def _watch_in(self, delay: float) -> None:
        self._resting = delay == KEEP_ALIVE_S
        if self._watch is not None and self._watch.active():
            self._watch.reset(delay)
        else:
            self._watch = self._clock.callLater(delay, self._tick)

    def _tick(self) -> None:
        heard = self.session.signs != self._signs
        self._signs = self.session.signs
        if heard:
            self._quiet = 0
            self._asked = False
        elif self._asked or self.session.streams:
            self._quiet += 1
        if self._quiet > SILENT_AFTER_TICKS:
            self.log.warn("a connection to Apple fell silent and is replaced")
            self.abort("connection silent")
            return
        if self._quiet == SILENT_AFTER_TICKS:
            self._watch_in(0)
            return
        if self._quiet == PING_AFTER_TICKS or (self._resting and not heard):
            self._asked = True
            self.session.ping()
            self._flush()
        self._watch_in(TICK_S if self._asked or self.session.streams else KEEP_ALIVE_S)
