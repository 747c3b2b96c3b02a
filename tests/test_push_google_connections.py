"""FCM's connections over HTTP/2: Google's habits, and what the apps of one account share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, LogLevel, capturedLogs

from middlewared.push.google.fcm import FcmProvider
from middlewared.push.interface import Accepted, PushProvider
from middlewared.simulator.google_http2 import Habits
from middlewared.simulator.scripts import Delay, Stall
from tests.google import GoogleTestCase, call_push, reactor
from tests.waiting import until


def lines(events: Sequence[LogEvent]) -> list[LogEvent]:
    """What an operator reads."""
    return [event for event in events if event["log_level"] >= LogLevel.info]


class HabitsTests(GoogleTestCase):
    """Google ends connections for reasons of its own; no push notices."""

    def new_provider(self) -> PushProvider:
        """FCM HTTP v1, over HTTP/2."""
        return self.new_fcm()

    async def connected(self) -> None:
        """Until both connections are ready and have served a push."""
        await until(lambda: self.ready() == 2)
        self.assertEqual(await self.burst(4), [Accepted()] * 4)

    def ready(self) -> int:
        return self.provider.connection_states()["production", "ready"]

    async def burst(self, count: int) -> list[Any]:
        return await gatherResults([self.sending() for _ in range(count)])

    async def test_two_connections_take_all_pushes(self) -> None:
        """Google allows 100 requests at a time on each; the others wait for their turn."""
        await self.connected()
        self.google.scripts.for_next(300, Delay(0.05))
        self.assertEqual(await self.burst(300), [Accepted()] * 300)
        self.assertEqual(self.google.protocols["h2"], 2)

    async def test_old_connections_are_renewed_quietly(self) -> None:
        """After an hour (here: at once); those that wait for an answer get it first."""
        self.google.habits = Habits(max_age_s=0.3)
        await self.google.stop()
        await self.google.start()
        await until(lambda: self.ready() == 2)
        with capturedLogs() as events:
            for _ in range(30):
                self.assertEqual(await self.burst(10), [Accepted()] * 10)
                await deferLater(reactor, 0.03)
        self.assertGreater(self.google.protocols["h2"], 5)
        self.assertEqual(lines(events), [])

    async def test_idle_connections_are_renewed_quietly(self) -> None:
        """After four minutes without a request; one is always ready for a call."""
        self.google.habits = Habits(idle_s=0.2)
        await self.google.stop()
        await self.google.start()
        await until(lambda: self.ready() == 2)
        opened = self.google.protocols["h2"]
        with capturedLogs() as events:
            await until(lambda: self.google.protocols["h2"] >= opened + 4)
        self.assertEqual(lines(events), [])
        self.assertEqual(await self.send(), Accepted())

    async def test_google_is_not_pinged_too_often(self) -> None:
        """Its third PING without a request ends a connection; calls come one by one, slowly."""
        await self.connected()
        opened = self.google.protocols["h2"]
        for _ in range(2):
            self.google.scripts.for_next(1, Stall())
            self.assert_uncertain(await self.send(call_push(wait_s=3.0)), "deadline")
            self.assertEqual(await self.send(), Accepted())
        self.assertEqual(self.google.protocols["h2"], opened)


class SharedProjectTests(GoogleTestCase):
    """Two apps with the same service account."""

    def new_provider(self) -> PushProvider:
        """The first app."""
        return self.new_fcm()

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Add a provider of the other app."""
        await super().setUp()
        first = self.provider
        assert isinstance(first, FcmProvider)
        self.measured: list[float] = []
        self.other = FcmProvider(
            app="other",
            project=first.project,
            clock=reactor,
            on_round_trip=self.measured.append,
        )
        self.kept(self.other)

    async def test_they_share_connections_and_the_access_token(self) -> None:
        """And both report the connections and the round trips."""
        for provider in (self.provider, self.other):
            self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual(self.google.protocols["h2"], 2)
        self.assertEqual(self.google.oauth.issued_count, 1)
        self.assertEqual(self.other.connection_states(), self.provider.connection_states())
        self.assertGreaterEqual(len(self.measured), 1)

    async def test_one_goes_and_the_other_stays(self) -> None:
        """A reload that removes an app closes nothing that others use."""
        await self.send()
        await self.provider.stop()
        self.assertEqual(await self.other.send(call_push()), Accepted())
        self.assertEqual(self.google.protocols["h2"], 2)
        await self.other.stop()
        await until(lambda: not self.google.connections)
