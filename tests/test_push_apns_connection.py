"""One connection: signs of life, writing, leaving. Time is a ``task.Clock``."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.apns import frames
from middlewared.push.apns.connection import (
    CLOSE_TIMEOUT_S,
    KEEP_ALIVE_S,
    MAX_UNSENT_FRAMES,
    Connection,
)
from middlewared.push.apns.exchange import OK, End, Exchange
from middlewared.push.apns.frames import pack
from middlewared.push.interface import Temporary

PONG = pack(frames.PING, frames.ACK, 0, b"sleeping")
PING = frames.ping(b"sleeping")


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
        self.connection = Connection(
            clock=self.clock, room=self.room, unprocessed=self.unprocessed.append
        )
        self.transport = Transport()
        self.transport.end = self.lose
        self.connection.makeConnection(self.transport)  # type: ignore[no-untyped-call]
        self.connection.dataReceived(frames.settings({}))
        self.transport.clear()
        self.transport.writes = 0
        self.addCleanup(self.at_the_end)

    def at_the_end(self) -> None:
        """No timer survives a connection."""
        if not self.connection.closed.called:
            self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def room(self) -> None:
        """Count how often there was room."""
        self.rooms += 1

    def lose(self) -> None:
        """The transport is gone."""
        self.connection.connectionLost(Failure(ConnectionLost()))

    def send(self) -> list[End]:
        """Send a push; its end will be in the list."""
        sent = Exchange(block=b"\x83", body=b"{}", deadline=4.0)
        ends: list[End] = []
        sent.ended.addCallback(ends.append)
        self.connection.send(sent)
        return ends

    def tick(self, seconds: float) -> None:
        """Let time pass as a reactor does."""
        self.clock.pump([0.25] * int(seconds / 0.25))

    def test_it_is_ready_at_the_first_settings(self) -> None:
        """Then there is room."""
        self.successResultOf(self.connection.ready)
        self.assertEqual((self.connection.state, self.rooms), ("ready", 1))

    def test_pushes_of_one_turn_are_written_at_once(self) -> None:
        """One TLS record and one system call for all."""
        for _ in range(3):
            self.send()
        self.assertEqual(self.transport.writes, 0)
        self.clock.advance(0)
        self.assertEqual(self.transport.writes, 1)

    def test_a_silent_peer_is_asked_and_then_left(self) -> None:
        """PING after half a second, the end after one."""
        ends = self.send()
        self.tick(0.5)
        self.assertTrue(self.transport.value().endswith(PING))
        self.tick(0.25)
        self.assertEqual(ends, [])
        self.tick(0.25)
        self.assertEqual(ends, [Temporary("connection silent", retry_after_s=0)])

    def test_a_peer_that_answers_pings_is_waited_for(self) -> None:
        """A slow answer is Apple's affair."""
        ends = self.send()
        for _ in range(6):
            self.tick(0.5)
            self.connection.dataReceived(PONG)
        self.connection.dataReceived(ok(1))
        self.assertEqual(ends, [OK])

    def test_answers_are_signs_of_life(self) -> None:
        """Under load no PING is needed."""
        for stream_id in range(1, 41, 2):
            self.send()
            self.send()
            self.tick(0.25)
            self.connection.dataReceived(ok(stream_id))
        self.assertNotIn(PING, self.transport.value())

    def test_other_frames_are_no_signs_of_life(self) -> None:
        """A peer may read and write and yet answer nothing."""
        ends = self.send()
        for _ in range(4):
            self.tick(0.25)
            self.connection.dataReceived(frames.settings({}))
        self.assertEqual(len(ends), 1)

    def test_an_idle_connection_is_kept_alive(self) -> None:
        """With a PING now and then, and a deadline for its ACK."""
        self.clock.advance(KEEP_ALIVE_S)
        self.assertEqual(self.transport.value(), PING)
        self.connection.dataReceived(PONG)
        self.tick(5)
        self.assertEqual(self.transport.value(), PING)
        self.clock.advance(KEEP_ALIVE_S)
        self.assertEqual(self.transport.value(), PING * 2)
        self.tick(1)
        self.assertTrue(self.connection.closed.called)

    def test_a_push_given_up_frees_its_stream(self) -> None:
        """Apple is told."""
        sent = Exchange(block=b"\x83", body=b"{}", deadline=4.0)
        self.connection.send(sent)
        self.connection.give_up(sent)
        self.clock.advance(0)
        self.assertTrue(self.transport.value().endswith(frames.rst_stream(1, 8)))  # type: ignore[arg-type]
        self.connection.give_up(sent)

    def test_leaving_waits_for_the_last_answer(self) -> None:
        """Then the connection is closed."""
        ends = self.send()
        self.connection.leave()
        self.successResultOf(self.connection.left)
        self.assertEqual((self.connection.can_open, self.transport.disconnecting), (False, False))
        self.connection.dataReceived(ok(1))
        self.assertEqual((ends, self.transport.disconnecting), ([OK], True))

    def test_a_lost_connection_ends_its_pushes(self) -> None:
        """They are to be sent again at once."""
        ends = self.send()
        self.lose()
        self.assertEqual(ends, [Temporary("connection lost", retry_after_s=0)])
        self.successResultOf(self.connection.left)
        self.successResultOf(self.connection.closed)

    def test_a_broken_protocol_ends_it(self) -> None:
        """With a GOAWAY that says so."""
        ends = self.send()
        self.connection.dataReceived(pack(frames.PING, 0, 0, b"short"))
        self.assertEqual(ends, [Temporary("protocol error", retry_after_s=0)])
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
        """Whoever waits for it to be ready may give up."""
        connection = Connection(
            clock=self.clock, room=self.room, unprocessed=self.unprocessed.append
        )
        transport = Transport()
        transport.end = lambda: connection.connectionLost(Failure(ConnectionLost()))
        connection.makeConnection(transport)  # type: ignore[no-untyped-call]
        self.assertEqual(connection.state, "connecting")
        connection.ready.cancel()
        self.failureResultOf(connection.ready, ConnectionLost)

    def test_a_peer_that_does_not_close_is_cut(self) -> None:
        """TLS would wait for it for ever."""
        self.connection.leave()
        self.assertTrue(self.transport.disconnecting)
        self.connection.dataReceived(b"more")
        self.clock.advance(CLOSE_TIMEOUT_S)
        self.assertTrue(self.connection.closed.called)
