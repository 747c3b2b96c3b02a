"""A reload with new credentials for Apple: the daemon's routes and real connections."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from middlewared.background import Background
from middlewared.metrics import Metrics
from middlewared.model import Platform
from middlewared.push.apns.apple_credentials import Credentials, load_certificate
from middlewared.push.apns.provider import ApnsProvider
from middlewared.push.instrumented import InstrumentedProvider
from middlewared.push.interface import Accepted, PushResult
from middlewared.push.routing import InstrumentedRoute, RouteTable
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority
from tests.apns import APP, AppleTestCase, call_push, reactor, tcp

KEY = (APP, Platform.APNS)


class ReloadTests(AppleTestCase):
    """One app, whose certificate is replaced."""

    connections = 1

    def setUp(self) -> None:
        super().setUp()
        self.background = Background()
        self.table = RouteTable(background=self.background, clock=reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end()))

    async def end(self) -> None:
        """Stop as the daemon does."""
        self.background.cancel()
        await self.table.stop()
        await self.background.finish()

    def reload(self, apple: AppleServer, credentials: Credentials) -> ApnsProvider:
        """Reload with these credentials."""
        provider = ApnsProvider(
            clock=reactor,
            endpoint=tcp,
            tokens=self.tokens,
            settings=self.settings(apple.url, "", credentials=credentials),
        )
        instrumented = InstrumentedProvider(
            provider=provider,
            clock=reactor,
            metrics=Metrics(),
            app=APP,
            platform=Platform.APNS,
        )
        self.table.replace({KEY: InstrumentedRoute(provider=instrumented)})
        return provider

    def in_use(self) -> object:
        """The provider in use."""
        route = self.table.find(*KEY)
        assert route is not None
        return route.provider.provider

    async def push(self) -> PushResult:
        """Push by the current route."""
        route = self.table.find(*KEY)
        assert route is not None
        return await route.provider.send(call_push())

    async def test_a_refused_certificate_replaces_no_good_one(self) -> None:
        """Calls continue with the old one until a later reload brings one that Apple accepts."""
        apple = await self.serve()
        stranger = Authority(folder=self.folder, name="stranger")
        refused = load_certificate(stranger.apns_client(), now=reactor.seconds())
        first = self.reload(apple, self.by_certificate())
        self.assertEqual(await self.push(), Accepted())
        second = self.reload(apple, refused)
        while second.problem != "client certificate refused":
            await deferLater(reactor, 0.01)
        self.assertIs(self.in_use(), first)
        self.assertEqual(await self.push(), Accepted())
        third = self.reload(apple, self.by_key())
        while self.in_use() is not third:
            self.assertEqual(await self.push(), Accepted())
        self.assertEqual(await self.push(), Accepted())
        while any(any(each.connection_states().values()) for each in (first, second)):
            await deferLater(reactor, 0.01)

    async def test_no_push_waits_for_a_reload(self) -> None:
        """Pushes during the change use the existing connections."""
        apple = await self.serve()
        self.reload(apple, self.by_certificate())
        self.assertEqual(await self.push(), Accepted())
        self.reload(apple, self.by_key())
        results = await gatherResults([Deferred.fromCoroutine(self.push()) for _ in range(20)])
        self.assertEqual(results, [Accepted()] * 20)
        self.assertEqual(len({push.connection for push in apple.record.received}), 1)
