"""
The warm connections to one server, and the queue before them.

An exchange is in the queue, on one stream, or ended. It waits in order of arrival, never
past its deadline; one that the server did not process goes to the front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from middlewared.background import Background, shielded
from middlewared.clock import Clock, DelayedCall
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.connector import Connector, PeerHabits
from middlewared.push.http2.exchange import Exchange, ExchangeResult, UsedConnection
from middlewared.push.interface import ConfigFault, Rejected, Temporary

MAX_QUEUE = 20_000
MAX_REFUSALS = 8
"""How often one request may be refused with REFUSED_STREAM before it is given up."""

MAX_LOST_CONNECTIONS = 2
"""A request on which this many connections have ended is not sent on another."""

AVOIDED_LOAD = 10_000_000.0

SWEEP_S = 0.02
"""How long after its deadline an exchange may end."""

RESET_AGAIN_S = 1.0
"""When to reset the streams for which no one waits, if not all could be reset at once."""

CLOSE_TIMEOUT_S = 2.0

UNWANTED = Temporary("unwanted")
"""The call was over before its push could be sent."""


class HostPools:
    """
    The started pools of this process by host; bounded by the configuration.

    A path that is dead for one connection is probably dead for all those to the same host.
    """

    def __init__(self) -> None:
        self._pools: dict[str, list[Http2Pool]] = {}

    def add(self, host: str, pool: Http2Pool) -> None:
        """``pool`` connects to ``host`` from now on."""
        self._pools.setdefault(host, []).append(pool)

    def remove(self, host: str, pool: Http2Pool) -> None:
        """``pool`` is stopped; harmless when it was never added."""
        pools = [each for each in self._pools.pop(host, []) if each is not pool]
        if pools:
            self._pools[host] = pools

    def verify(self, host: str) -> None:
        """A connection to ``host`` is silent: check all others at once."""
        for pool in list(self._pools.get(host, [])):
            pool.verify()


class Http2Pool:
    """
    Keeps ``size`` connections ready and spreads exchanges over them.

    :param name: for the log: app and environment.
    :param peer: the server's name, for the log.
    :param host: the host to which ``endpoint`` connects.
    :param endpoint: returns a TLS endpoint for each attempt.
    :param host_pools: the pools of this process.
    :param habits: how this peer treats connections.
    :param on_round_trip: gets each round trip of a PING, in seconds.
    """

    def __init__(
        self,
        *,
        name: str,
        clock: Clock,
        host: str,
        endpoint: Callable[[], IStreamClientEndpoint],
        size: int,
        host_pools: HostPools,
        peer: str = "the peer",
        habits: PeerHabits = PeerHabits(),  # noqa: B008 - immutable
        on_round_trip: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._host = host
        self._peer = peer
        self._habits = habits
        self._host_pools = host_pools
        self._on_round_trip = on_round_trip
        self._prepared: Deferred[None] = Deferred()
        self._connections: list[Http2Connection] = []
        self._make_connector = partial(
            Connector,
            name=name,
            clock=clock,
            endpoint=endpoint,
            factory=self._make_connection,
            pool=self,
            habits=habits,
        )
        self._connectors = [self._make_connector() for _ in range(size)]
        self._started = False
        self._surplus = Background()
        self._queue: deque[Exchange] = deque()
        self._fault: ConfigFault | None = None
        self._sweep_timer: DelayedCall | None = None
        self._sweep_at = inf
        self._drain_timer: DelayedCall | None = None
        self._stopped: ExchangeResult | None = None

    def __repr__(self) -> str:
        return f"<Http2Pool {self.name}: {self._connections}, {len(self._queue)} queued>"

    def start(self) -> None:
        """Begin to connect."""
        self._started = True
        self._host_pools.add(self._host, self)
        for connector in self._connectors:
            connector.start()

    def resize(self, size: int) -> None:
        """Keep this many connections ready; surplus ones close after their last request."""
        while len(self._connectors) < size:
            self._connectors.append(self._make_connector())
            if self._started:
                self._connectors[-1].start()
        while len(self._connectors) > size:
            self._surplus.run(self._connectors.pop().retire())

    async def prepared(self) -> None:
        """Wait for the first connection."""
        if self._is_connected:
            return
        if self._prepared.called:
            self._prepared = Deferred()
        await shielded(self._prepared)

    @property
    def up(self) -> bool | None:
        """Whether a connection is ready; None: no attempt to connect has failed yet."""
        failed = any(connector.problem for connector in self._connectors)
        return True if self._is_connected else False if failed else None

    @property
    def problem(self) -> str:
        """Why there is no connection, in a few words."""
        problems = (connector.problem for connector in self._connectors)
        return next(filter(None, problems), "not connected yet")

    def is_known(self, problem: str) -> bool:
        """See :class:`.connector.ConnectorOwner`."""
        return any(connector.problem == problem for connector in self._connectors)

    def verify(self) -> None:
        """Require a sign of life of each connection soon; a silent one is dropped."""
        for connection in list(self._connections):
            connection.liveness.verify()

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
        connection = None if self._queue else self._pick(exchange.connection, now)
        if exchange.send_by <= now:
            exchange.end(Temporary("deadline"))
        elif connection is not None:
            self._send(exchange, connection, now)
        elif self._stopped is not None:
            exchange.end(self._stopped)
        elif self._fault is not None and not self._is_connected:
            exchange.end(self._fault)
        elif len(self._queue) >= MAX_QUEUE:
            exchange.end(Temporary("queue full"))
        else:
            self._queue.append(exchange)
            self._sweep_by(exchange.send_by)
            for connector in self._connectors:
                connector.hurry()

    async def stop(self) -> None:
        """Close everything; queued exchanges end as Temporary, those in flight as Uncertain."""
        self._stopped = Temporary("stopped")
        self._host_pools.remove(self._host, self)
        await self._stop_connectors()
        self._end_queue(self._stopped)
        for connection in list(self._connections):
            connection.close(self._stopped.reason)
        await self._wait_closed(CLOSE_TIMEOUT_S)

    # Called by the connectors.

    def joined(self, connection: Http2Connection) -> None:
        """A connection is ready."""
        self._fault = None
        self._connections.append(connection)
        connection.closed.addCallback(lambda _: self._connections.remove(connection))
        if not self._prepared.called:
            self._prepared.callback(None)
        self._drain_queue()

    def refused(self, fault: ConfigFault) -> None:
        """No connection is possible until the configuration is corrected."""
        self._fault = fault
        if not self._is_connected:
            self._end_queue(fault)

    @property
    def _is_connected(self) -> bool:
        """Whether there is a connection that takes exchanges, now or soon."""
        return any(connection.state == "ready" for connection in self._connections)

    # Exchanges.

    def _make_connection(self) -> Http2Connection:
        return Http2Connection(
            clock=self._clock,
            peer=self._peer,
            pings_at_rest=self._habits.pings_at_rest,
            on_capacity=self._drain_queue,
            on_unprocessed=self._replay,
            on_suspect=lambda: self._host_pools.verify(self._host),
            on_round_trip=self._on_round_trip,
        )

    def _pick(self, avoided: UsedConnection | None, now: float) -> Http2Connection | None:
        """The least loaded connection that can open an exchange; ``avoided`` only if no other."""
        best = None
        least = inf
        for connection in self._connections:
            if connection.can_open:
                load = connection.load(now) if connection is not avoided else AVOIDED_LOAD
                if load < least:
                    best, least = connection, load
        return best

    def _send(self, exchange: Exchange, connection: Http2Connection, now: float) -> None:
        if not exchange.wanted():
            exchange.end(UNWANTED)
            return
        if exchange.header_list_size > connection.session.max_list_size:
            exchange.end(Rejected("header list larger than the peer takes"))
            return
        exchange.connection = connection
        exchange.answer_by = min(exchange.deadline, now + exchange.answer_s)
        connection.send(exchange)
        self._sweep_by(exchange.answer_by)

    def _drain_queue(self) -> None:
        """A stream is free: send the exchanges that have waited longest."""
        now = self._clock.seconds()
        while self._queue:
            connection = self._pick(self._queue[0].connection, now)
            if connection is None:
                return
            exchange = self._queue.popleft()
            if exchange.send_by <= now:
                exchange.end(Temporary("deadline"))
            elif not exchange.over:
                self._send(exchange, connection, now)

    def _replay(self, exchange: Exchange) -> None:
        """The server did not process it: it goes first, on any connection with a free stream."""
        if exchange.over:
            return
        exchange.forget_stream()
        if self._stopped is not None:
            exchange.end(self._stopped)
        elif exchange.refusals > MAX_REFUSALS:
            exchange.end(Temporary("refused unprocessed"))
        elif exchange.lost_connections >= MAX_LOST_CONNECTIONS:
            # It may be the cause.
            exchange.end(Temporary("lost with its connection twice"))
        else:
            self._queue.appendleft(exchange)
            self._sweep_by(exchange.send_by)
            self._drain_soon()

    def _drain_soon(self) -> None:
        """In the next turn: the session that returns exchanges is not yet consistent."""
        if self._drain_timer is None:
            self._drain_timer = self._clock.callLater(0, self._drain_now)

    def _drain_now(self) -> None:
        self._drain_timer = None
        self._drain_queue()

    def _end_queue(self, result: ExchangeResult) -> None:
        while self._queue:
            self._queue.popleft().end(result)

    # Deadlines.

    def _sweep_by(self, deadline: float) -> None:
        if deadline >= self._sweep_at:
            return
        self._sweep_at = deadline
        delay = max(deadline - self._clock.seconds(), SWEEP_S)
        if self._sweep_timer is None:
            self._sweep_timer = self._clock.callLater(delay, self._sweep_soon)
        else:
            self._sweep_timer.reset(delay)

    def _sweep_soon(self) -> None:
        """In the next turn: responses that have arrived by now are read first."""
        self._sweep_timer = self._clock.callLater(0, self._sweep)

    def _sweep(self) -> None:
        """End what is due, and set the timer for the next deadline."""
        self._sweep_timer, self._sweep_at = None, inf
        now = self._clock.seconds()
        self._end_late(now)
        for connection in list(self._connections):
            self._cancel_late(connection, now)

    def _end_late(self, now: float) -> None:
        """End queued exchanges that are too late to be sent."""
        waiting = [each for each in self._queue if not each.over]
        self._queue = deque(each for each in waiting if each.send_by > now)
        for exchange in self._queue:
            self._sweep_by(exchange.send_by)
        for exchange in waiting:
            if exchange.send_by <= now:
                exchange.end(Temporary("deadline"))

    def _cancel_late(self, connection: Http2Connection, now: float) -> None:
        """Cancel sent exchanges that are too late; not all streams may be reset at once."""
        kept = False
        for exchange in list(connection.session.streams.values()):
            if exchange.answer_by > now:
                self._sweep_by(exchange.answer_by)
                continue
            exchange.end_late()
            kept |= not connection.cancel(exchange)
        if kept:
            self._sweep_by(now + RESET_AGAIN_S)
            connection.leave_if_clogged()

    # Stopping.

    async def _stop_connectors(self) -> None:
        for connector in self._connectors:
            await connector.stop()
        await self._surplus.finish()

    async def _wait_closed(self, timeout_s: float) -> None:
        """Wait until every connection is gone; those left after the time-out are aborted."""
        closed = [connection.closed for connection in self._connections]
        abort = self._clock.callLater(timeout_s, self._abort_all)
        for each in closed:
            await each
        for timer in (abort, self._sweep_timer, self._drain_timer):
            if timer is not None and timer.active():
                timer.cancel()

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort("stopped")
