"""Connections to Apple that the apps of one team key share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from middlewared.push.apns.apple_connections import AppleConnections
from middlewared.push.apns.provider import ApnsProvider
from middlewared.push.interface import Accepted, Temporary
from middlewared.push.shared_connections import SharedConnections
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.scripts import Deliver, Stall
from tests.apns import AppleTestCase, call_push, reactor

APPS = ["com.example.one", "com.example.two", "com.example.three"]


class SharedConnectionsTests(AppleTestCase):
    """Providers of several apps, as one daemon has them."""

    def setUp(self) -> None:
        super().setUp()
        self.shared: SharedConnections[AppleConnections] = SharedConnections()
        self.credentials = self.by_key()

    def app(self, apple: AppleServer, name: str, **changes: Any) -> ApnsProvider:
        """The started provider of one app."""
        on_round_trip = changes.pop("on_round_trip", lambda *_: None)
        settings = self.settings(apple.url, "", credentials=self.credentials)
        settings = attrs.evolve(settings, app=name, topic=f"{name}.voip", **changes)
        return self.provide(settings, shared=self.shared, on_round_trip=on_round_trip)

    async def serve_apps(self) -> AppleServer:
        """An Apple that knows the topics of all apps."""
        return await self.serve(topics=[f"{app}.voip" for app in APPS])

    def ready(self, provider: ApnsProvider) -> int:
        """How many connections the app uses."""
        return provider.connection_states()["production", "ready"]

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for it."""
        while not reached():
            await deferLater(reactor, 0.01)

    async def test_apps_of_one_key(self) -> None:
        """Two connections for all, each app's topic, and no app closes those of the others."""
        apple = await self.serve_apps()
        one, two, three = (self.app(apple, name) for name in APPS)
        for provider in (one, two, three):
            await provider.prepared()
        await self.until(lambda: self.ready(one) == 2)
        for provider in (one, two, three):
            self.assertEqual(await provider.send(call_push()), Accepted())
            self.assertEqual(self.ready(provider), 2)
        self.assertEqual(
            [push.headers["apns-topic"] for push in apple.record.received],
            [f"{app}.voip" for app in APPS],
        )
        await one.stop()
        await two.stop()
        self.assertEqual(await three.send(call_push()), Accepted())
        self.assertLessEqual(len({push.connection for push in apple.record.received}), 2)
        await three.stop()
        self.assertEqual(sum(three.connection_states().values()), 0)
        again = self.app(apple, APPS[0])
        self.assertEqual(await again.send(call_push()), Accepted())

    async def test_all_wait_for_the_first_connection(self) -> None:
        """A reload of a fleet waits for the same connections; one that gives up harms none."""
        apple = await self.serve_apps()
        waiting = [Deferred.fromCoroutine(self.app(apple, app).prepared()) for app in APPS]
        given_up = waiting.pop(1)
        given_up.addErrback(lambda _: None)
        given_up.cancel()
        await gatherResults(waiting)

    async def test_the_largest_setting_counts(self) -> None:
        """More connections when an app that wants more joins, fewer when it has gone."""
        apple = await self.serve_apps()
        one = self.app(apple, APPS[0], connections=1)
        await self.until(lambda: self.ready(one) == 1)
        two = self.app(apple, APPS[1], connections=3)
        await self.until(lambda: self.ready(one) == 3)
        await two.stop()
        await self.until(lambda: one.connection_states() == only_ready(1))
        self.assertEqual(await one.send(call_push()), Accepted())

    async def test_a_surplus_connection_finishes_its_requests(self) -> None:
        """A push that Apple has not answered keeps its connection until its deadline."""
        apple = await self.serve_apps()
        one = self.app(apple, APPS[0], connections=1)
        two = self.app(apple, APPS[1], connections=4)
        await self.until(lambda: self.ready(one) == 4)
        # Apple allows one stream on a connection until it has accepted a provider token there.
        apple.scripts.for_next(4, Deliver(), Stall())
        pushes = [self.sending(one, call_push(wait_s=1.0)) for _ in range(4)]
        await self.until(lambda: len(apple.record.received) == 4)
        await two.stop()
        self.assertEqual(one.connection_states()["production", "draining"], 3)
        for result in await gatherResults(pushes):
            self.assertNotEqual(result, Temporary("stopped"))
        await self.until(lambda: one.connection_states() == only_ready(1))

    async def test_each_app_has_the_round_trips(self) -> None:
        """The metric of an app does not depend on which of them was first."""
        apple = await self.serve_apps()
        seen: list[str] = []
        for name in APPS:
            self.app(apple, name, on_round_trip=partial(lambda app, *_: seen.append(app), name))
        await self.until(lambda: set(seen) == set(APPS))

    async def test_what_is_not_shared(self) -> None:
        """Another certificate, and other trusted roots."""
        apple = await self.serve_apps()
        by_key = self.app(apple, APPS[0], connections=1)
        self.app(apple, APPS[1], connections=3, roots="other")
        self.credentials = self.by_certificate()
        certified = self.app(apple, APPS[2], connections=2)
        await self.until(lambda: self.ready(by_key) == 1)
        await self.until(lambda: self.ready(certified) == 2)
        self.assertEqual((self.ready(by_key), self.ready(certified)), (1, 2))


def only_ready(count: int) -> dict[tuple[str, str], int]:
    """The states of so many connections."""
    return {
        ("production", "connecting"): 0,
        ("production", "ready"): count,
        ("production", "draining"): 0,
    }
