"""Time-outs count only the time in which this process could have received a reply."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, TimeoutError, inlineCallbacks
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from middlewared.waiting import SLICES, FairCall, FairTimeouts, with_fair_timeout

reactor: Any = _reactor


class FairCallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.calls: list[object] = []

    def test_it_calls_after_its_delay_in_small_steps(self) -> None:
        """While the process runs, the delay is the one asked for."""
        FairCall(self.clock, 1.0, self.calls.append, "late")
        self.clock.pump([0.25] * 3 + [0.2])
        self.assertEqual(self.calls, [])
        self.clock.pump([0.05, 0.0])
        self.assertEqual(self.calls, ["late"])

    def test_a_pause_of_the_process_does_not_count(self) -> None:
        """A process that was stopped for ten seconds gives its peer the rest of its time."""
        call = FairCall(self.clock, 1.0, self.calls.append, "late")
        self.clock.advance(10.0)
        self.clock.pump([0.2] * 3)
        self.assertTrue(call.active())
        self.assertEqual(self.calls, [])

    def test_a_deadline_holds_through_a_pause(self) -> None:
        """With one slice nothing is deducted."""
        FairCall(self.clock, 1.0, self.calls.append, "late", slices=1)
        self.clock.advance(10.0)
        self.assertEqual(self.calls, ["late"])

    def test_cancel_is_harmless_afterwards(self) -> None:
        """A call that was made is not active, and cancelling it changes nothing."""
        call = FairCall(self.clock, 1.0, self.calls.append, "late")
        self.clock.pump([0.25] * SLICES + [0.0])
        call.cancel()
        self.assertFalse(call.active())
        self.assertEqual(self.calls, ["late"])


class FairTimeoutsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.late: list[Deferred[Any]] = []
        self.timeouts = FairTimeouts(clock=self.clock, timeout_s=1.0, late=self.late.append)

    def begin(self) -> Deferred[None]:
        waited: Deferred[None] = Deferred()
        self.timeouts.begin(waited)
        return waited

    def test_each_has_its_whole_time(self) -> None:
        """No wait ends early, none more than a slice late, and no timer is left."""
        first = self.begin()
        self.clock.advance(0.2)
        second = self.begin()
        self.clock.pump([0.05, 0.25, 0.25, 0.24])
        self.assertEqual(self.late, [])
        self.clock.pump([0.01, 0.0])
        self.assertEqual(self.late, [first])
        self.clock.pump([0.2, 0.05, 0.0])
        self.assertEqual(self.late, [first, second])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_pause_of_the_process_does_not_count(self) -> None:
        """A pause takes at most a slice of the time of each."""
        self.begin()
        self.clock.advance(10.0)
        self.clock.pump([0.25, 0.25, 0.2])
        self.assertEqual(self.late, [])

    def test_what_has_ended_is_not_late(self) -> None:
        """Also if it ends in the last turn; to end it twice is harmless."""
        first, second = self.begin(), self.begin()
        self.timeouts.end(first)
        self.clock.pump([0.25] * SLICES)
        self.timeouts.end(second)
        self.timeouts.end(second)
        self.assertEqual((self.late, self.clock.getDelayedCalls()), ([], []))


class Reply(Protocol):
    """Fires with the first bytes that arrive."""

    def __init__(self) -> None:
        self.arrived: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.arrived.callback(data)


class BusyReactorTests(TestCase):
    @inlineCallbacks
    def test_sockets_are_read_before_it_calls(self) -> Generator[Any, Any, None]:
        """A reply that lies in the socket's buffer after a busy turn is no silence."""
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        ours.setblocking(False)
        reply = Reply()
        connection = reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, _once(reply))
        ours.close()
        self.addCleanup(connection.abortConnection)

        def be_busy() -> None:
            theirs.send(b"reply")
            time.sleep(0.5)

        reactor.callLater(0.05, be_busy)
        answered = with_fair_timeout(reply.arrived, 0.2, reactor)
        self.assertEqual((yield answered), b"reply")


def _once(protocol: Protocol) -> Factory:
    factory = Factory()
    factory.noisy = False
    factory.protocol = lambda: protocol
    return factory


class WithFairTimeoutTests(SynchronousTestCase):
    def test_a_silent_peer_times_out(self) -> None:
        """The failure is Twisted's TimeoutError, as of addTimeout."""
        clock = Clock()
        waited = with_fair_timeout(Deferred[None](), 1.0, clock)
        clock.pump([0.25] * SLICES + [0.0])
        self.failureResultOf(waited, TimeoutError)

    def test_another_result_may_stand_for_the_timeout(self) -> None:
        """As ``late`` gives it."""
        clock = Clock()
        waited = with_fair_timeout(Deferred[str](), 1.0, clock, lambda: "late")
        clock.pump([0.25] * SLICES + [0.0])
        self.assertEqual(self.successResultOf(waited), "late")

    def test_a_result_ends_the_timer(self) -> None:
        """A result in time is passed on, and no timer stays behind."""
        clock = Clock()
        source: Deferred[str] = Deferred()
        waited = with_fair_timeout(source, 1.0, clock)
        source.callback("reply")
        self.assertEqual(self.successResultOf(waited), "reply")
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_another_failure_stays_what_it_is(self) -> None:
        """Only the cancellation of our own making becomes a TimeoutError."""
        clock = Clock()
        source: Deferred[str] = Deferred()
        waited = with_fair_timeout(source, 1.0, clock)
        source.errback(ValueError("broken"))
        self.failureResultOf(waited, ValueError)
