"""Pool and connectors: back-off, and the queue's bound. Time is a ``task.Clock``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.http2 import frames
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.connector import MAX_BACKOFF_S, REST_S, USEFUL_AFTER_S
from middlewared.push.http2.exchange import OK, Exchange, ExchangeResult
from middlewared.push.http2.pool import MAX_QUEUE, HostPools, Http2Pool
from middlewared.push.interface import Rejected, Temporary, Uncertain, always_wanted

PING = frames.FRAME_HEAD.pack(8 << 8 | frames.PING, 0, 0)


class Wire(StringTransport):
    """A transport on which PINGs are answered while its network works."""

    def __init__(self, network: Network, connection: Http2Connection) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._network = network
        self._connection = connection

    def write(self, data: bytes) -> None:
        """Answer in the next iteration."""
        for piece in data.split(PING)[1:]:
            self._network.clock.callLater(0, self._pong, piece[:8])
        super().write(data)  # type: ignore[no-untyped-call]

    def _pong(self, question: bytes) -> None:
        if not self._network.dead and self._connection in self._network.connections:
            self._connection.dataReceived(frames.ping(question, ack=True))

    def abortConnection(self) -> None:
        self._network.lose(self._connection)

    loseConnection = abortConnection


class Network:
    """Where a pool connects to: counts, refuses, or gives a connection."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.up = False
        self.dead = False
        self.connects = 0
        self.settings = {3: 1}
        self.connections: list[Http2Connection] = []

    def connect(self, factory: Any) -> Deferred[Http2Connection]:
        """As an endpoint does."""
        self.connects += 1
        if not self.up:
            return fail(ConnectionRefusedError())
        connection = factory.buildProtocol(None)
        self.connections.append(connection)
        connection.makeConnection(Wire(self, connection))
        connection.dataReceived(frames.settings(self.settings))
        return succeed(connection)

    def lose(self, connection: Http2Connection) -> None:
        """The connection is gone."""
        if connection in self.connections:
            self.connections.remove(connection)
            connection.connectionLost(Failure(ConnectionLost()))


class PoolTests(SynchronousTestCase):
    """A pool of one connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.host_pools = HostPools()
        self.pools: list[Http2Pool] = []
        self.pool = self.make_pool()
        self.addCleanup(self.at_the_end)

    def make_pool(self, *, host: str = "apple:443", size: int = 1) -> Http2Pool:
        """A pool that was not started."""
        pool = Http2Pool(
            name="app production",
            clock=self.clock,
            host=host,
            endpoint=lambda: cast(IStreamClientEndpoint, self.network),
            size=size,
            host_pools=self.host_pools,
        )
        self.pools.append(pool)
        return pool

    def at_the_end(self) -> None:
        """Stopping leaves no timer."""
        for pool in self.pools:
            self.successResultOf(Deferred.fromCoroutine(pool.stop()))
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def submit(
        self,
        *,
        deadline: float = 1e9,
        send_by: float | None = None,
        wanted: Callable[[], bool] = always_wanted,
        pool: Http2Pool | None = None,
    ) -> list[ExchangeResult]:
        """Submit a push; its end will be in the list."""
        exchange = Exchange(header_block=b"\x83", body=b"{}", deadline=deadline, wanted=wanted)
        exchange.send_by = send_by or deadline
        ends: list[ExchangeResult] = []
        exchange.ended.addCallback(ends.append)
        (pool or self.pool).submit(exchange)
        return ends

    def start(self, pool: Http2Pool | None = None) -> None:
        """Start a pool; its connections come up and are measured."""
        self.network.up = True
        (pool or self.pool).start()
        self.clock.advance(0)

    def test_a_provider_that_is_down_is_tried_ever_more_rarely(self) -> None:
        """But never given up."""
        self.pool.start()
        self.clock.pump([0.1] * 600)
        early = self.network.connects
        self.assertLess(early, 25)
        self.clock.pump([1.0] * 600)
        self.assertGreaterEqual(self.network.connects - early, 600 / (MAX_BACKOFF_S + 1) - 1)

    def test_the_first_push_after_a_rest_waits_for_no_back_off(self) -> None:
        """It has only a few seconds; later ones speed up the attempts, but not each of them."""
        self.pool.start()
        self.clock.pump([1.0] * 600)
        before = self.network.connects
        for count in (1, 1):
            self.submit(deadline=self.clock.seconds() + 4)
            self.clock.advance(0)
            self.assertEqual(self.network.connects - before, count)
        self.clock.advance(1.0)
        self.assertEqual(self.network.connects - before, 2)
        self.network.up = True
        self.clock.pump([1.0] * int(REST_S + 5))
        for connection in list(self.network.connections):
            self.network.lose(connection)
        ends = self.submit(deadline=self.clock.seconds() + 4)
        self.clock.advance(0)
        self.assertEqual(self.pool.states(), {"connecting": 0, "ready": 1, "draining": 0})
        self.assertEqual((ends, len(self.network.connections[0].session.streams)), ([], 1))

    def test_connections_that_answer_nothing_are_backed_off_too(self) -> None:
        """A server that accepts and closes is no better than one that refuses."""
        self.network.up = True
        self.pool.start()
        for _ in range(600):
            for connection in list(self.network.connections):
                self.network.lose(connection)
            self.clock.advance(0.1)
        self.assertLess(self.network.connects, 25)

    def test_a_push_that_two_connections_died_of_is_not_replayed(self) -> None:
        """It was not completely sent, so nothing else would stop it."""
        self.network.up = True
        self.network.settings = {3: 1, 4: 0}  # no byte of a body may be sent
        self.pool.start()
        ends = self.submit()
        for _ in range(2):
            self.assertEqual(ends, [])
            self.network.lose(self.network.connections[0])
            self.clock.pump([0.1] * 5)
        self.assertEqual(ends, [Temporary("lost with its connection twice")])

    def test_a_header_list_beyond_the_peers_limit_is_not_sent(self) -> None:
        """That push fails, the connection stays (RFC 9113 section 6.5.2)."""
        self.network.up = True
        self.network.settings = {3: 1, 6: 500}
        self.pool.start()
        exchange = Exchange(header_block=b"\x83", body=b"{}", deadline=1e9, header_list_size=501)
        ends: list[ExchangeResult] = []
        exchange.ended.addCallback(ends.append)
        self.pool.submit(exchange)
        self.assertEqual(ends, [Rejected("header list larger than the peer takes")])
        self.assertEqual(self.submit(), [])
        self.assertEqual(len(self.network.connections[0].session.streams), 1)

    def test_the_queue_is_bounded(self) -> None:
        """More than it holds is refused at once."""
        ends = [self.submit() for _ in range(MAX_QUEUE + 1)]
        self.assertEqual(ends[-2:], [[], [Temporary("queue full")]])

    def test_pushes_past_their_deadline_leave_the_queue(self) -> None:
        """Each at its own time, and they make room."""
        early, late = self.submit(deadline=1.0), self.submit(deadline=2.0)
        self.clock.advance(1.0)
        self.assertEqual((early, late), ([Temporary("deadline")], []))
        self.clock.advance(1.0)
        self.assertEqual(late, [Temporary("deadline")])

    def test_pushes_of_calls_that_are_over_are_not_sent(self) -> None:
        """What is not wanted any more when its turn comes is dropped, the others go."""
        wanted = True
        unwanted = self.submit(wanted=lambda: wanted)
        other = self.submit()
        wanted = False
        self.network.up = True
        self.pool.start()
        self.assertEqual(unwanted, [Temporary("unwanted")])
        answer = frames.pack(frames.HEADERS, 5, 1, b"\x88")
        self.network.connections[0].dataReceived(answer)
        self.assertEqual(other, [OK])

    def test_a_push_is_asked_for_when_it_is_sent_and_not_before(self) -> None:
        """``wanted`` counts it as sent, which a queued push is not."""
        asked: list[bool] = []

        def wanted() -> bool:
            asked.append(True)
            return True

        self.submit(wanted=wanted)
        self.assertEqual(asked, [])
        self.start()
        self.assertEqual(asked, [True])

    def test_a_connection_that_lived_for_a_while_is_replaced_at_once(self) -> None:
        """Closing an old idle connection is not a failure; closing a new one is."""
        self.start()
        self.clock.pump([0.25] * int(4 * USEFUL_AFTER_S))
        self.network.lose(self.network.connections[0])
        self.assertEqual(self.network.connects, 2)
        self.network.lose(self.network.connections[0])
        self.assertEqual(self.network.connects, 2)

    def test_pushes_go_where_the_latest_sign_of_life_came_from(self) -> None:
        """Among idle connections: the path of the other may have failed meanwhile."""
        self.network.settings = {3: 1000}
        pool = self.make_pool(size=3)
        self.start(pool)
        self.clock.pump([0.25] * 80)
        fresh = self.network.connections[1]
        fresh.session.ping()
        fresh.flush()
        self.clock.pump([0.25] * 80)
        for _ in range(3):
            self.submit(pool=pool)
        self.assertEqual(
            [len(each.session.streams) for each in self.network.connections], [0, 3, 0]
        )

    def test_connections_with_fresh_signs_of_life_share_the_load(self) -> None:
        """They are equally good then."""
        self.network.settings = {3: 1000}
        pool = self.make_pool(size=2)
        self.start(pool)
        for _ in range(6):
            self.submit(pool=pool)
        self.assertEqual([len(each.session.streams) for each in self.network.connections], [3, 3])

    def test_a_dead_path_costs_the_time_of_one_connection(self) -> None:
        """The first doubt makes all connections to that host be checked, also of other apps."""
        pools = [self.make_pool(size=2), self.make_pool(size=2)]
        elsewhere = self.make_pool(host="sandbox:443")
        for pool in (*pools, elsewhere):
            self.start(pool)
        self.clock.pump([0.25] * 40)
        before = list(self.network.connections)
        self.network.dead = True
        ends = self.submit(pool=pools[0])
        self.clock.pump([0.25] * 4)
        self.assertIsInstance(ends[0], Uncertain)
        left = [each for each in before if each in self.network.connections]
        self.assertEqual(left, before[4:])
        self.assertEqual(self.network.connects, 9)

    def test_a_push_in_doubt_waits_for_a_sign_of_life(self) -> None:
        """It is sent once a connection has shown a sign of life, not over one that may be dead."""
        self.network.settings = {3: 1000}
        self.start()
        self.clock.pump([0.25] * 40)
        self.network.dead = True
        first = self.submit()
        self.clock.pump([0.25] * 2)
        second = self.submit()
        (connection,) = self.network.connections
        self.assertEqual(len(connection.session.streams), 1)
        self.network.dead = False
        connection.session.ping()
        connection.flush()
        self.clock.advance(0)
        self.assertEqual((first, second, len(connection.session.streams)), ([], [], 2))

    def test_what_may_be_sent_for_a_while_only_is_answered_until_the_deadline(self) -> None:
        """If too late to be sent, it ends; if sent in time, its answer is awaited."""
        self.start()
        self.clock.pump([0.25] * 40)
        now = self.clock.seconds()
        sent = self.submit(send_by=now + 1.5, deadline=now + 3.0)
        queued = self.submit(send_by=now + 1.5, deadline=now + 3.0)
        self.clock.pump([0.25] * 6)
        self.assertEqual((sent, queued), ([], [Temporary("deadline")]))
        self.clock.pump([0.25] * 6)
        self.assertEqual([type(end) for end in sent], [Uncertain])

    def test_the_queue_is_served_in_order(self) -> None:
        """The one that has waited longest goes first, one stream at a time."""
        served: list[int] = []

        def note(number: int, _: ExchangeResult) -> None:
            served.append(number)

        for number in range(3):
            exchange = Exchange(header_block=b"\x83", body=b"%d" % number, deadline=9.0)
            exchange.ended.addCallback(partial(note, number))
            self.pool.submit(exchange)
        self.network.up = True
        self.pool.start()
        for stream_id in (1, 3, 5):
            answer = frames.pack(frames.HEADERS, 5, stream_id, b"\x88")
            self.network.connections[0].dataReceived(answer)
        self.assertEqual(served, [0, 1, 2])
