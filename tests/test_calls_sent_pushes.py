"""The pushes of a call that are kept, also when the call ends before their results."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.calls.sent_pushes import SentPushes
from middlewared.model import Call, Device, IncomingCall, Platform
from middlewared.push.interface import Accepted, CallPush, Push, PushProvider, PushResult, Temporary

CALL = Call("key", IncomingCall(1, "anonymous"), 0.0, 4.0, 0.0)


class SlowProvider(PushProvider):
    """Its pushes have their results when the test wants."""

    def __init__(self) -> None:
        self.sent: list[Deferred[PushResult]] = []

    async def send(self, push: Push) -> PushResult:
        self.sent.append(Deferred())
        return await self.sent[-1]


class SentPushesTests(SynchronousTestCase):
    """Two pushes of a call."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.provider = SlowProvider()
        self.sent = SentPushes()
        self.quiet: list[int] = []
        device = Device(1, Platform.GCM, "app", "token")
        for attempt in (1, 2):
            push = CallPush(device, CALL, attempt, "http://127.0.0.1/")
            sending = self.sent.send(push, self.provider, self.clock)
            Deferred.fromCoroutine(sending).addErrback(lambda failure: failure.trap(ValueError))
            self.clock.advance(0.5)

    def wait(self) -> None:
        self.sent.when_quiet(lambda: self.quiet.append(len(self.sent.all)))

    def test_results_that_come_after_the_call(self) -> None:
        """It is complete when the last of them has come."""
        self.wait()
        self.provider.sent[1].callback(Temporary("busy"))
        self.assertEqual(self.quiet, [])
        self.clock.advance(1)
        self.provider.sent[0].callback(Accepted())
        self.assertEqual(self.quiet, [2])
        self.assertEqual(
            [(each.attempt, each.at, each.took_s) for each in self.sent.all],
            [(2, 0.5, 0.5), (1, 0.0, 2.0)],
        )

    def test_calls_without_open_pushes(self) -> None:
        """They are complete at once."""
        for sending in self.provider.sent:
            sending.callback(Accepted())
        self.wait()
        self.assertEqual(self.quiet, [2])

    def test_a_bug_of_the_provider(self) -> None:
        """The call is kept without that push."""
        self.wait()
        self.provider.sent[0].callback(Accepted())
        self.provider.sent[1].errback(ValueError("a bug"))
        self.assertEqual(self.quiet, [1])
