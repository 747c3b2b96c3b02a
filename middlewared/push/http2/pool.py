"""
The warm connections to one of Apple's environments, and the queue before them.

The one invariant: an exchange is in the queue, on one stream, or ended. It waits in
order of arrival, never past its deadline; an unprocessed one goes to the front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from middlewared.clock import Clock, DelayedCall
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.connector import Connector
from middlewared.push.http2.exchange import Carrier, End, Exchange
from middlewared.push.http2.paths import Paths
from middlewared.push.interface import ConfigFault, Rejected, Temporary

MAX_QUEUE = 20_000
MAX_REFUSALS = 8
"""How often one push may be refused with REFUSED_STREAM before the peer is believed to mean it."""

MOST_DEATHS = 2
"""So many connections may end with a push on them before it is sent on no other."""

REFUSER_LOAD = 10_000_000.0

SWEEP_S = 0.02
"""How late the end of a push at its deadline may be."""

RESET_AGAIN_S = 1.0
"""When to reset further streams for which no one waits, if not all could be reset at once."""

CLOSE_TIMEOUT_S = 2.0

UNWANTED = Temporary("unwanted")
"""The call was over before its push could be sent."""


class Http2Pool:
    """
    Keeps ``size`` connections ready and spreads exchanges over them.

    :param name: for the log: app and environment.
    :param host: the host to which ``endpoint`` connects.
    :param endpoint: returns a TLS endpoint for each attempt.
    :param paths: knows the other pools of the same host.
    :param measured: gets each round trip of a PING, in seconds.
    """

    def __init__(
        self,
        *,
        name: str,
        clock: Clock,
        host: str,
        endpoint: Callable[[], IStreamClientEndpoint],
        size: int,
        paths: Paths,
        measured: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._host = host
        self._paths = paths
        self._measured = measured
        self._prepared: Deferred[None] = Deferred()
        self._connections: list[Http2Connection] = []
        self._connectors = [
            Connector(name=name, clock=clock, endpoint=endpoint, factory=self._make, host=self)
            for _ in range(size)
        ]
        self._queue: deque[Exchange] = deque()
        self._fault: ConfigFault | None = None
        self._sweeping: DelayedCall | None = None
        self._sweep_at = inf
        self._draining: DelayedCall | None = None
        self._stopped: End | None = None

    def __repr__(self) -> str:
        return f"<Http2Pool {self.name}: {self._connections}, {len(self._queue)} queued>"

    def start(self) -> None:
        """Begin to connect."""
        self._paths.add(self._host, self)
        for connector in self._connectors:
            connector.start()

    async def prepared(self) -> None:
        """Wait for the first connection; for one caller at a time."""
        if self._hopeful:
            return
        self._prepared = Deferred()
        await self._prepared

    @property
    def problem(self) -> str:
        """Why there is no connection, in a few words."""
        told = next((connector.problem for connector in self._connectors if connector.problem), "")
        return told or "not connected yet"

    def is_known(self, problem: str) -> bool:
        """See :class:`.connector.ConnectorOwner`."""
        return any(connector.problem == problem for connector in self._connectors)

    def prove(self) -> None:
        """Have each connection show a sign of life soon, or be dropped."""
        for connection in list(self._connections):
            connection.liveness.prove()

    def states(self) -> dict[str, int]:
        """How many connections are connecting, ready and draining."""
        connecting = sum(connector.connecting for connector in self._connectors)
        counts = {"connecting": connecting, "ready": 0, "draining": 0}
        for connection in self._connections:
            counts[connection.state] += 1
        return counts

    def submit(self, exchange: Exchange) -> None:
        """Send ``exchange`` now, or as soon as a stream is free."""
        now = self._clock.seconds()
        connection = None if self._queue else self._pick(exchange.carrier, now)
        if exchange.send_by <= now:
            exchange.end(Temporary("deadline"))
        elif connection is not None:
            self._send(exchange, connection)
        elif self._stopped is not None:
            exchange.end(self._stopped)
        elif self._fault is not None and not self._hopeful:
            exchange.end(self._fault)
        elif len(self._queue) >= MAX_QUEUE:
            exchange.end(Temporary("queue full"))
        else:
            self._queue.append(exchange)
            self._sweep_by(exchange.send_by)
            for connector in self._connectors:
                connector.hurry()

    async def stop(self) -> None:
        """Close everything; exchanges end as Temporary in the queue, Uncertain in flight."""
        self._stopped = Temporary("stopped")
        self._paths.remove(self._host, self)
        await self._end_connectors()
        self._end_queue(self._stopped)
        for connection in list(self._connections):
            connection.close(self._stopped.reason)
        await self._wait_closed(CLOSE_TIMEOUT_S)

    # What the connectors tell.

    def joined(self, connection: Http2Connection) -> None:
        """A connection is ready."""
        self._fault = None
        self._connections.append(connection)
        connection.closed.addCallback(lambda _: self._connections.remove(connection))
        if not self._prepared.called:
            self._prepared.callback(None)
        self._drain_queue()

    def refused(self, fault: ConfigFault) -> None:
        """No connection can be had until somebody repairs the configuration."""
        self._fault = fault
        if not self._hopeful:
            self._end_queue(fault)

    @property
    def _hopeful(self) -> bool:
        """Whether there is a connection that takes pushes, now or soon."""
        return any(connection.state == "ready" for connection in self._connections)

    # Exchanges.

    def _make(self) -> Http2Connection:
        return Http2Connection(
            clock=self._clock,
            room=self._drain_queue,
            unprocessed=self._replay,
            doubted=lambda: self._paths.doubt(self._host),
            measured=self._measured,
        )

    def _pick(self, refused_by: Carrier | None, now: float) -> Http2Connection | None:
        """The least loaded connection that can open an exchange; ``refused_by`` only at need."""
        best = None
        least = inf
        for connection in self._connections:
            if connection.can_open:
                load = connection.load(now) if connection is not refused_by else REFUSER_LOAD
                if load < least:
                    best, least = connection, load
        return best

    def _send(self, exchange: Exchange, connection: Http2Connection) -> None:
        if not exchange.wanted():
            exchange.end(UNWANTED)
            return
        if exchange.list_size > connection.session.max_list_size:
            exchange.end(Rejected("header list larger than the peer takes"))
            return
        exchange.carrier = connection
        connection.send(exchange)
        self._sweep_by(exchange.deadline)

    def _drain_queue(self) -> None:
        """There is room: let those go that wait longest."""
        now = self._clock.seconds()
        while self._queue and (connection := self._pick(self._queue[0].carrier, now)) is not None:
            exchange = self._queue.popleft()
            if exchange.send_by <= now:
                exchange.end(Temporary("deadline"))
            elif not exchange.over:
                self._send(exchange, connection)

    def _replay(self, exchange: Exchange) -> None:
        """The peer did not process it: it goes first, on whichever connection is free."""
        if exchange.over:
            return
        exchange.unopened()
        if self._stopped is not None:
            exchange.end(self._stopped)
        elif exchange.refusals > MAX_REFUSALS:
            exchange.end(Temporary("refused unprocessed"))
        elif exchange.deaths >= MOST_DEATHS:
            # It may be what they die of.
            exchange.end(Temporary("lost with its connection twice"))
        else:
            self._queue.appendleft(exchange)
            self._sweep_by(exchange.send_by)
            self._drain_soon()

    def _drain_soon(self) -> None:
        """In the next turn: whoever gives exchanges back is still in the middle of it."""
        if self._draining is None:
            self._draining = self._clock.callLater(0, self._drain_now)

    def _drain_now(self) -> None:
        self._draining = None
        self._drain_queue()

    def _end_queue(self, end: End) -> None:
        while self._queue:
            self._queue.popleft().end(end)

    # Deadlines.

    def _sweep_by(self, deadline: float) -> None:
        if deadline >= self._sweep_at:
            return
        self._sweep_at = deadline
        delay = max(deadline - self._clock.seconds(), SWEEP_S)
        if self._sweeping is None:
            self._sweeping = self._clock.callLater(delay, self._sweep_soon)
        else:
            self._sweeping.reset(delay)

    def _sweep_soon(self) -> None:
        """In the next turn: answers that have arrived by now are read first."""
        self._sweeping = self._clock.callLater(0, self._sweep)

    def _sweep(self) -> None:
        """End what is due, and look again when the next one will be."""
        self._sweeping, self._sweep_at = None, inf
        now = self._clock.seconds()
        self._end_late(now)
        for connection in list(self._connections):
            self._give_up_late(connection, now)

    def _end_late(self, now: float) -> None:
        """End queued exchanges that are too late to be sent."""
        waiting = [each for each in self._queue if not each.over]
        self._queue = deque(each for each in waiting if each.send_by > now)
        for exchange in self._queue:
            self._sweep_by(exchange.send_by)
        for exchange in waiting:
            if exchange.send_by <= now:
                exchange.end(Temporary("deadline"))

    def _give_up_late(self, connection: Http2Connection, now: float) -> None:
        """Give up sent exchanges past their deadline; not all streams may be reset at once."""
        kept = False
        for exchange in list(connection.session.streams.values()):
            if exchange.deadline > now:
                self._sweep_by(exchange.deadline)
                continue
            exchange.end(exchange.fate("deadline") or Temporary("deadline"))
            kept |= not connection.give_up(exchange)
        if kept:
            self._sweep_by(now + RESET_AGAIN_S)
            connection.relieve()

    # The end.

    async def _end_connectors(self) -> None:
        for connector in self._connectors:
            await connector.stop()

    async def _wait_closed(self, timeout_s: float) -> None:
        """Wait until every connection is gone; what remains after the time-out is cut."""
        closed = [connection.closed for connection in self._connections]
        cut = self._clock.callLater(timeout_s, self._cut)
        for each in closed:
            await each
        for timer in (cut, self._sweeping, self._draining):
            if timer is not None and timer.active():
                timer.cancel()

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.abort("stopped")
