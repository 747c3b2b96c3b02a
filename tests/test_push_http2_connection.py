"""One connection: signs of life, writing, leaving. Time is a ``task.Clock``."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.http2 import frames
from middlewared.push.http2.connection import (
    CLOSE_TIMEOUT_S,
    MAX_UNSENT_FRAMES,
    RESETS_AT_ONCE,
    RESETS_PER_S,
    Http2Connection,
)
from middlewared.push.http2.exchange import OK, Exchange, ExchangeResult
from middlewared.push.http2.frames import pack
from middlewared.push.http2.liveness import KEEP_ALIVE_S
from middlewared.push.interface import Uncertain

PING = frames.FRAME_HEAD.pack(8 << 8 | frames.PING, 0, 0)
"""The beginning of our PINGs."""


def ok(stream_id: int) -> bytes:
    """An accepted push."""
    return pack(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id, b"\x88")


class Transport(StringTransport):
    """Counts writes; ends like a TCP connection."""

    writes = 0
    end: Callable[[], None]

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)  # type: ignore[no-untyped-call]

    def abortConnection(self) -> None:
        self.end()

    def loseConnection(self) -> None:
        assert self.producer is None, "a transport waits for its producer"
        super().loseConnection()  # type: ignore[no-untyped-call]


class ConnectionTests(SynchronousTestCase):
    """A connection whose peer sent its SETTINGS."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.unprocessed: list[Exchange] = []
        self.rooms = 0
        self.doubts = 0
        self.round_trips: list[float] = []
        self.connect()
        self.addCleanup(self.at_the_end)

    def connect(self, *, round_trip_s: float = 0.0, pings_at_rest: bool = True) -> None:
        """Connect over a path with this round trip; the first PING is answered."""
        self.connection = Http2Connection(
            clock=self.clock,
            peer="Apple",
            on_capacity=self.room,
            on_unprocessed=self.unprocessed.append,
            on_suspect=self.doubt,
            on_round_trip=self.round_trips.append,
            pings_at_rest=pings_at_rest,
        )
        self.transport = Transport()
        self.transport.end = self.lose
        self.connection.makeConnection(self.transport)  # type: ignore[no-untyped-call]
        self.clock.advance(round_trip_s)
        self.connection.dataReceived(frames.settings({}))
        self.clock.advance(round_trip_s)
        if pings_at_rest:
            self.pong()
        self.transport.clear()
        self.transport.writes = 0

    def at_the_end(self) -> None:
        """No timer survives a connection."""
        if not self.connection.closed.called:
            self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def room(self) -> None:
        """Count how often there was room."""
        self.rooms += 1

    def doubt(self) -> None:
        """Count how often the path was suspected."""
        self.doubts += 1

    def pong(self) -> None:
        """The peer answers the latest PING."""
        question = self.transport.value().rpartition(PING)[2][:8]
        self.connection.dataReceived(frames.ping(question, ack=True))

    @property
    def pings(self) -> int:
        """The number of PINGs sent on the connection."""
        return int(self.transport.value().count(PING))

    def lose(self) -> None:
        """The transport is gone."""
        self.connection.connectionLost(Failure(ConnectionLost()))

    def send(self) -> list[ExchangeResult]:
        """Send a push; its end will be in the list."""
        return self.send_exchange()[1]

    def send_exchange(self) -> tuple[Exchange, list[ExchangeResult]]:
        """Send a push; returns the exchange too."""
        sent = Exchange(header_block=b"\x83", body=b"{}", deadline=4.0)
        ends: list[ExchangeResult] = []
        sent.ended.addCallback(ends.append)
        self.connection.send(sent)
        return sent, ends

    def tick(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass as a reactor does."""
        self.clock.pump([step] * round(seconds / step))

    def uncertain(self, reason: str, sent_at: float = 0.0) -> list[Uncertain]:
        """The end of a push that was sent then."""
        return [Uncertain(reason, sent_at)]

    def test_it_is_ready_at_the_first_settings(self) -> None:
        """Then there is room."""
        self.successResultOf(self.connection.ready)
        self.assertEqual((self.connection.state, self.rooms), ("ready", 2))

    def test_pushes_of_one_turn_are_written_at_once(self) -> None:
        """One TLS record and one system call for all."""
        for _ in range(3):
            self.send()
        self.assertEqual(self.transport.writes, 0)
        self.clock.advance(0)
        self.assertEqual(self.transport.writes, 1)

    def test_a_silent_peer_is_asked_and_then_left(self) -> None:
        """PING after half a second, dropped after one; the push may have arrived."""
        ends = self.send()
        self.tick(0.5)
        self.assertEqual((self.pings, self.doubts), (1, 1))
        self.tick(0.25)
        self.assertEqual(ends, [])
        self.tick(0.25)
        self.assertEqual(ends, self.uncertain("connection silent", 0.25))
        self.assertEqual((self.connection.why, self.connection.broken), ("connection silent", True))

    def test_a_long_path_has_more_time(self) -> None:
        """Four round trips; PINGs are no more frequent, and the connect time does not count."""
        self.lose()
        self.connect(round_trip_s=0.56)
        self.assertEqual(self.round_trips[1:], [0.56])
        ends = self.send()
        self.tick(1.10, 0.01)
        self.assertEqual((self.pings, ends), (0, []))
        self.tick(1.10, 0.01)
        self.assertEqual((self.pings, ends), (1, []))
        self.tick(0.10, 0.01)
        self.assertEqual(len(ends), 1)

    def test_a_peer_that_takes_no_pings_at_rest(self) -> None:
        """One goes with the first push after a rest; few of them while no answer comes."""
        self.lose()
        self.connect(pings_at_rest=False)
        self.tick(10_000.0, 100.0)
        self.assertEqual(self.pings, 0)
        ends = self.send()
        self.tick(0.25)
        self.assertEqual(self.pings, 1)
        self.pong()
        self.transport.clear()
        for _ in range(2):
            self.tick(0.75)
            self.assertEqual(self.pings, 1)
            self.pong()
            self.transport.clear()
        self.tick(100.0)
        self.assertEqual((self.pings, ends), (0, []))
        self.send()
        self.tick(1.5)
        self.assertEqual(self.pings, 1)

    def test_a_dead_path_to_a_peer_that_takes_no_pings_at_rest(self) -> None:
        """It is noticed within the usual time."""
        self.lose()
        self.connect(pings_at_rest=False)
        self.tick(10_000.0, 100.0)
        ends = self.send()
        self.tick(1.5)
        self.assertEqual([end.reason for end in ends], ["connection silent"])  # type: ignore[union-attr]

    def test_the_round_trip_is_smoothed(self) -> None:
        """One slow PING changes the patience by an eighth of it."""
        self.clock.advance(0.25)
        self.clock.advance(KEEP_ALIVE_S)
        self.clock.pump([0.1] * 4)
        self.pong()
        self.assertAlmostEqual(self.connection.liveness.round_trip_s, 0.4 / 8)
        self.assertAlmostEqual(self.round_trips[-1], 0.4)

    def test_a_pause_of_this_process_is_no_round_trip(self) -> None:
        """It is not counted, as in all our time-outs."""
        self.clock.advance(0.25)
        self.clock.advance(KEEP_ALIVE_S)
        self.clock.rightNow += 30.0
        self.pong()
        self.assertLessEqual(self.round_trips[-1], 0.5)

    def test_a_quick_answer_corrects_a_guess_that_was_too_long(self) -> None:
        """An answer is never faster than the path."""
        self.lose()
        self.connect(round_trip_s=0.8)
        self.send()
        self.clock.advance(0.1)
        self.connection.dataReceived(ok(1))
        self.assertAlmostEqual(self.connection.liveness.round_trip_s, 0.1)

    def test_a_peer_that_answers_pings_is_waited_for(self) -> None:
        """A slow answer is no fault of the connection."""
        ends = self.send()
        for _ in range(20):
            self.tick(0.75)
            self.pong()
        self.connection.dataReceived(ok(1))
        self.assertEqual(ends, [OK])

    def test_in_doubt_it_takes_no_pushes(self) -> None:
        """Until a sign of life comes: then it reports room."""
        self.send()
        self.tick(0.5)
        self.assertFalse(self.connection.can_open)
        rooms = self.rooms
        self.pong()
        self.assertEqual((self.connection.can_open, self.rooms), (True, rooms + 1))

    def test_it_is_verified_at_once(self) -> None:
        """On request, within half the time: the rest has passed on another connection."""
        self.tick(1.0)
        self.connection.liveness.verify()
        self.assertEqual((self.pings, self.connection.can_open), (1, False))
        self.tick(0.25)
        self.pong()
        self.assertTrue(self.connection.can_open)
        self.tick(5.0)
        self.connection.liveness.verify()
        self.tick(0.25)
        self.assertFalse(self.connection.closed.called)
        self.tick(0.25)
        self.assertTrue(self.connection.closed.called)
        self.assertEqual(self.doubts, 0)

    def test_one_with_a_fresh_sign_of_life_is_not_verified(self) -> None:
        """Its path works."""
        self.tick(1.0)
        self.send()
        self.connection.dataReceived(ok(1))
        self.connection.liveness.verify()
        self.assertEqual((self.pings, self.connection.can_open), (0, True))

    def test_answers_are_signs_of_life(self) -> None:
        """Under load no PING is needed."""
        for stream_id in range(1, 41, 2):
            self.send()
            self.send()
            self.tick(0.25)
            self.connection.dataReceived(ok(stream_id))
        self.assertEqual(self.pings, 0)

    def test_other_frames_are_no_signs_of_life(self) -> None:
        """A peer may read and write and yet answer nothing."""
        ends = self.send()
        for _ in range(4):
            self.tick(0.25)
            self.connection.dataReceived(frames.settings({}))
        self.assertEqual(len(ends), 1)

    def test_an_idle_connection_is_kept_alive(self) -> None:
        """With a PING every minute, and a deadline for its ACK."""
        self.clock.advance(0.25)
        self.clock.advance(KEEP_ALIVE_S)
        self.assertEqual(self.pings, 1)
        self.pong()
        self.tick(5)
        self.assertEqual(self.pings, 1)
        self.clock.advance(KEEP_ALIVE_S)
        self.assertEqual(self.pings, 2)
        self.tick(1)
        self.assertTrue(self.connection.closed.called)

    def test_the_path_is_measured_under_load_too(self) -> None:
        """Once a minute, although answers come all the time."""
        self.send()
        for stream_id in range(1, 10 * int(KEEP_ALIVE_S), 2):
            self.send()
            self.tick(0.25)
            self.connection.dataReceived(ok(stream_id))
        self.assertEqual(self.pings, 1)

    def test_a_push_given_up_frees_its_stream(self) -> None:
        """Its stream is reset."""
        sent, _ = self.send_exchange()
        self.assertTrue(self.connection.cancel(sent))
        self.clock.advance(0)
        self.assertTrue(self.transport.value().endswith(frames.rst_stream(1, 8)))  # type: ignore[arg-type]
        self.assertTrue(self.connection.cancel(sent))

    def test_resets_do_not_come_in_floods(self) -> None:
        """Apple closes connections that reset too many streams; further resets wait."""
        sent = [self.send_exchange()[0] for _ in range(RESETS_AT_ONCE + 50)]
        self.clock.advance(0)
        given_up = [self.connection.cancel(each) for each in sent]
        self.assertEqual(given_up, [True] * RESETS_AT_ONCE + [False] * 50)
        self.clock.advance(1.0)
        given_up = [self.connection.cancel(each) for each in sent[RESETS_AT_ONCE:]]
        self.assertEqual(given_up.count(True), RESETS_PER_S)

    def test_a_connection_full_of_pushes_given_up_is_left(self) -> None:
        """And closed at once, as no one waits for an answer; without further resets."""
        self.connection.dataReceived(frames.settings({3: 10}))
        sent = [self.send_exchange()[0] for _ in range(10)]
        for each in sent[:5]:
            each.end(OK)
        self.connection.leave_if_clogged()
        self.assertFalse(self.connection.left.called)
        for each in sent:
            each.end(OK)
        self.connection.leave_if_clogged()
        self.assertTrue(self.connection.left.called)
        self.assertTrue(self.transport.disconnecting)

    def test_leaving_waits_for_the_last_answer(self) -> None:
        """Then the connection is closed."""
        ends = self.send()
        self.connection.leave("Shutdown")
        self.successResultOf(self.connection.left)
        self.assertEqual((self.connection.can_open, self.transport.disconnecting), (False, False))
        self.connection.dataReceived(ok(1))
        self.assertEqual((ends, self.transport.disconnecting), ([OK], True))

    def test_a_lost_connection_ends_its_pushes(self) -> None:
        """What was written may have arrived, the rest has not."""
        ends = self.send()
        self.clock.advance(0.5)
        unwritten = self.send_exchange()[0]
        self.lose()
        self.assertEqual(ends, self.uncertain("connection lost", 0.5))
        self.assertEqual(self.unprocessed, [unwritten])
        self.assertEqual(self.connection.why, "reset by the peer or the network")
        self.successResultOf(self.connection.left)
        self.successResultOf(self.connection.closed)

    def test_a_broken_protocol_ends_it(self) -> None:
        """With a GOAWAY of that code."""
        ends = self.send()
        self.clock.advance(0)
        self.connection.dataReceived(pack(frames.PING, 0, 0, b"short"))
        self.assertEqual(ends, self.uncertain("protocol error"))
        self.assertEqual(self.connection.why, "Apple's side broke HTTP/2: PING has a wrong length")
        self.assertTrue(self.transport.value().endswith(b"\0\0\0\0\0\0\0\x06"))
        self.assertTrue(self.transport.disconnecting)

    def test_a_peer_that_does_not_read_gets_no_more_pushes(self) -> None:
        """Until it does."""
        self.connection.pauseProducing()
        self.assertFalse(self.connection.can_open)
        self.connection.dataReceived(frames.ping(b"12345678"))
        self.assertEqual(self.transport.writes, 0)
        self.connection.resumeProducing()
        self.assertEqual(self.transport.writes, 1)
        self.assertTrue(self.connection.can_open)

    def test_a_peer_that_asks_without_reading_is_left(self) -> None:
        """Our answers would pile up."""
        self.connection.pauseProducing()
        for _ in range(MAX_UNSENT_FRAMES // 100 + 1):
            if not self.connection.closed.called:
                self.connection.dataReceived(frames.ping(b"12345678") * 100)
        self.assertTrue(self.connection.closed.called)

    def test_before_the_settings_a_timeout_ends_it(self) -> None:
        """A caller may stop waiting until it is ready."""
        connection = Http2Connection(
            clock=self.clock, on_capacity=self.room, on_unprocessed=self.unprocessed.append
        )
        transport = Transport()
        transport.end = lambda: connection.connectionLost(Failure(ConnectionLost()))
        connection.makeConnection(transport)  # type: ignore[no-untyped-call]
        self.assertEqual(connection.state, "connecting")
        connection.ready.cancel()
        self.failureResultOf(connection.ready, ConnectionLost)

    def test_a_peer_that_does_not_close_is_cut(self) -> None:
        """TLS would wait for it for ever."""
        self.connection.leave("Shutdown")
        self.assertTrue(self.transport.disconnecting)
        self.connection.dataReceived(b"more")
        self.clock.advance(CLOSE_TIMEOUT_S)
        self.assertTrue(self.connection.closed.called)
