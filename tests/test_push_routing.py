"""Which provider is used, and how one that a reload replaces ends."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.metrics import Metrics
from middlewared.model import Device, Platform
from middlewared.push.instrumented import RETIRE_S, InstrumentedProvider
from middlewared.push.interface import (
    Accepted,
    NoticePush,
    Push,
    PushProvider,
    PushResult,
    Rejected,
)
from middlewared.push.routing import BETWEEN_REPLACEMENTS_S, InstrumentedRoute, RouteTable

KEY = ("com.example", Platform.GCM)
NOTICE = NoticePush(Device(1, Platform.GCM, "com.example", "token"), "text", 60.0)


class SlowProvider(PushProvider):
    """Gives its result when the test fires it."""

    def __init__(self) -> None:
        self.started = 0
        self.stopped = 0
        self.result: Deferred[PushResult] = Deferred()

    async def start(self) -> None:
        self.started += 1

    async def stop(self) -> None:
        self.stopped += 1

    async def send(self, push: Push) -> PushResult:
        return await self.result


class ConnectingProvider(SlowProvider):
    """Cannot push until it is connected."""

    def __init__(self) -> None:
        super().__init__()
        self.connected: Deferred[None] = Deferred()

    @property
    def problem(self) -> str:
        return "client certificate refused"

    async def prepared(self) -> None:
        await self.connected


class OrderedProvider(ConnectingProvider):
    """Notes when it starts and stops; it is connected unless the test changes that."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__()
        self.connected = succeed(None)
        self._name = name
        self._order = order

    async def start(self) -> None:
        self._order.append(f"{self._name} starts")

    async def stop(self) -> None:
        self._order.append(f"{self._name} stops")


class RouteTableTests(SynchronousTestCase):
    """A table with one app."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.background = Background()
        self.table = RouteTable(background=self.background, clock=self.clock)
        self.provider = SlowProvider()
        self.route = self.make_route(self.provider)
        self.table.replace({KEY: self.route})

    def make_route(self, provider: SlowProvider) -> InstrumentedRoute:
        return InstrumentedRoute(
            provider=InstrumentedProvider(
                provider=provider,
                clock=self.clock,
                metrics=self.metrics,
                app="com.example",
                platform=Platform.GCM,
            )
        )

    def pushes_counted(self, result: str) -> tuple[float | None, float | None]:
        """How many pushes had this result, and their seconds in all."""
        name, labels = "middlewared_push_seconds", {"platform": "gcm", "result": result}
        value = self.metrics.registry.get_sample_value
        return value(f"{name}_count", labels), value(f"{name}_sum", labels)

    def test_known_and_unknown_apps(self) -> None:
        """An app on another platform is another one."""
        self.assertIs(self.table.find(*KEY), self.route)
        self.assertIsNone(self.table.find("com.example", Platform.ANDROID))
        self.assertEqual((self.provider.started, self.provider.stopped), (1, 0))

    def test_what_stays_is_neither_stopped_nor_started_again(self) -> None:
        """A reload that changes a setting of the route keeps the provider."""
        same = InstrumentedRoute(provider=self.route.provider, lost_account_notice=False)
        self.table.replace({KEY: same})
        self.assertIs(self.table.find(*KEY), same)
        self.assertEqual((self.provider.started, self.provider.stopped), (1, 0))

    def test_replaced_provider_ends_its_pushes_first(self) -> None:
        """The new one is used from now on; the old one stops when its last push has ended."""
        sending = Deferred.fromCoroutine(self.route.provider.send(NOTICE))
        new = SlowProvider()
        self.table.replace({KEY: self.make_route(new)})
        self.assertEqual((new.started, self.provider.stopped), (1, 0))
        self.clock.advance(0.5)
        self.provider.result.callback(Accepted())
        self.assertEqual(self.successResultOf(sending), Accepted())
        self.assertEqual(self.provider.stopped, 1)
        self.assertEqual(self.pushes_counted("accepted"), (1, 0.5))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_providers_are_replaced_one_after_another(self) -> None:
        """Calls go on meanwhile; a provider that was not started yet is never used."""
        other = ("com.example.other", Platform.GCM)
        self.table.replace({KEY: self.route, other: self.make_route(SlowProvider())})
        new, newer = [SlowProvider(), SlowProvider()], [SlowProvider(), SlowProvider()]
        for providers in (new, newer):
            routes = map(self.make_route, providers)
            self.table.replace(dict(zip((KEY, other), routes, strict=True)))
        started = [provider.started for provider in (*new, *newer)]
        self.assertEqual(started, [1, 0, 1, 0])
        self.clock.advance(BETWEEN_REPLACEMENTS_S)
        self.assertEqual([provider.started for provider in (*new, *newer)], [1, 0, 1, 1])
        self.assertEqual([provider.stopped for provider in (*new, *newer)], [1, 0, 0, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connections_are_shared_across_a_reload(self) -> None:
        """
        A new provider may use the connections of one that goes, which close with the last
        provider that was started on them: so it starts first, however many start before it.
        """
        order: list[str] = []
        apps = [(f"com.example.{name}", Platform.GCM) for name in ("a", "b", "c")]
        for generation in range(2):
            routes = {
                app: self.make_route(OrderedProvider(f"{app[0][-1]}{generation}", order))
                for app in apps[generation:]
            }
            self.table.replace(routes)
        self.clock.advance(BETWEEN_REPLACEMENTS_S)
        self.assertEqual(order[:3], ["a0 starts", "b0 starts", "c0 starts"])
        self.assertEqual(order[3:5], ["b1 starts", "c1 starts"])
        self.assertEqual(set(order[5:]), {"a0 stops", "b0 stops", "c0 stops"})

    def test_connections_of_one_that_waits_are_shared_by_its_successor(self) -> None:
        """A reload that comes while the new provider has no connection yet starts its own first."""
        order: list[str] = []
        waiting, last = OrderedProvider("waiting", order), OrderedProvider("last", order)
        waiting.connected = Deferred()
        for provider in (waiting, last):
            self.table.replace({KEY: self.make_route(provider)})
        self.assertEqual(order[:3], ["waiting starts", "last starts", "waiting stops"])

    def test_replaced_provider_is_not_waited_for_forever(self) -> None:
        """A push that never ends does not keep the old provider alive."""
        sending = Deferred.fromCoroutine(self.route.provider.send(NOTICE))
        self.table.replace({})
        self.clock.advance(RETIRE_S)
        self.assertEqual(self.provider.stopped, 1)
        self.assertNoResult(sending)

    def test_end_of_the_daemon_stops_a_replaced_provider(self) -> None:
        """It waits for nothing more, and no timer is left."""
        sending = Deferred.fromCoroutine(self.route.provider.send(NOTICE))
        self.table.replace({})
        self.background.cancel()
        self.successResultOf(Deferred.fromCoroutine(self.background.finish()))
        self.assertEqual(self.provider.stopped, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNoResult(sending)

    def test_a_provider_without_a_connection_does_not_replace_one(self) -> None:
        """The old one is used until the new one can push; route settings apply at once."""
        new = ConnectingProvider()
        route = attrs.evolve(self.make_route(new), lost_account_notice=False)
        self.table.replace({KEY: route})
        present = self.present()
        self.assertIs(present.provider, self.route.provider)
        self.assertFalse(present.lost_account_notice)
        self.assertEqual((new.started, self.provider.stopped), (1, 0))
        new.connected.callback(None)
        self.assertIs(self.present(), route)
        self.assertEqual((new.stopped, self.provider.stopped), (0, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_operator_learns_that_the_new_one_does_not_connect(self) -> None:
        """It is logged every minute; after an hour the old one is dropped anyway."""
        new = ConnectingProvider()
        with capturedLogs() as events:
            self.table.replace({KEY: self.make_route(new)})
            self.clock.pump([1.0] * 300)
        lines = [str(formatEvent(event)) for event in events]
        self.assertEqual(len(lines), 5)
        self.assertEqual(
            lines[0],
            "com.example: no connection with the new credentials or settings"
            " (client certificate refused): the old ones stay in use",
        )
        self.assertIs(self.present().provider, self.route.provider)
        with capturedLogs():
            self.clock.pump([60.0] * 60)
        self.assertIs(self.present().provider.provider, new)
        self.assertEqual((self.provider.stopped, self.clock.getDelayedCalls()), (1, []))

    def test_a_later_reload_takes_the_place_of_one_that_waits(self) -> None:
        """The one that was never used is stopped; one that is still wanted is awaited."""
        second, third = ConnectingProvider(), ConnectingProvider()
        self.table.replace({KEY: self.make_route(second)})
        wanted = self.make_route(third)
        for _ in range(2):
            self.table.replace({KEY: wanted})
        second.connected.callback(None)
        self.assertEqual((second.stopped, third.started, third.stopped), (1, 1, 0))
        self.assertIs(self.present().provider, self.route.provider)
        third.connected.callback(None)
        self.assertIs(self.present(), wanted)
        self.assertEqual(self.provider.stopped, 1)

    def test_back_to_the_old_settings(self) -> None:
        """The provider in use stays; the new one is stopped."""
        new = ConnectingProvider()
        self.table.replace({KEY: self.make_route(new)})
        self.table.replace({KEY: self.route})
        self.assertIs(self.present(), self.route)
        self.assertEqual((new.stopped, self.provider.stopped), (1, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_app_that_goes_while_its_new_provider_connects(self) -> None:
        """Both are stopped, as at the end of the daemon."""
        for stops in (False, True):
            old, new = SlowProvider(), ConnectingProvider()
            self.table.replace({KEY: self.make_route(old)})
            self.table.replace({KEY: self.make_route(new)})
            if stops:
                self.successResultOf(Deferred.fromCoroutine(self.table.stop()))
            else:
                self.table.replace({})
            self.assertEqual((old.stopped, new.stopped), (1, 1))
            self.assertIsNone(self.table.find(*KEY))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def present(self) -> InstrumentedRoute:
        """The route in use."""
        route = self.table.find(*KEY)
        assert route is not None
        return route

    def test_bug_in_a_provider_is_a_result(self) -> None:
        """A push that has failed ends at once; it is logged and counted."""
        sending = Deferred.fromCoroutine(self.route.provider.send(NOTICE))
        self.provider.result.errback(ZeroDivisionError())
        self.assertEqual(self.successResultOf(sending), Rejected("internal error"))
        self.assertEqual(self.pushes_counted("config-fault"), (1, 0.0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
