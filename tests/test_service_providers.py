"""Which providers a reload keeps, and which it replaces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from middlewared.config import GcmApp, read_config
from middlewared.errors import ConfigError
from middlewared.metrics import Metrics
from middlewared.model import Platform
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import load_trust
from middlewared.push.apns.provider import SANDBOX_OFF
from middlewared.push.instrumented import InstrumentedProvider
from middlewared.push.interface import Accepted, PushProvider, Resend
from middlewared.push.routing import InstrumentedRoute
from middlewared.service.apps import AppKey, LoadedApp, load_apps
from middlewared.service.providers import Providers
from middlewared.simulator.certificates import write_provider_key
from tests.apns import APP, OTHER_TOKEN, TOKEN, AppleTestCase, call_push, reactor
from tests.google import GoogleTestCase
from tests.google import call_push as google_call_push

KEY = ("com.example", Platform.GCM)


class ProvidersTests(SynchronousTestCase):
    """One app, loaded again and again."""

    def setUp(self) -> None:
        self.app = GcmApp(app="com.example", api_key="key")
        self.providers = Providers(
            reactor=reactor,
            clock=reactor,
            endpoints=DirectEndpoints(reactor),
            metrics=Metrics(),
        )
        self.route = self.load(self.app)

    def load(self, app: GcmApp, roots: str = "") -> Any:
        loaded = LoadedApp(app, load_trust(None), None, roots)
        return self.providers.routes({KEY: loaded})[KEY]

    def test_nothing_has_changed(self) -> None:
        """The provider stays, although its files were read again."""
        self.assertIs(self.load(self.app).provider, self.route.provider)

    def test_settings_of_the_route(self) -> None:
        """resend and lost_account_notice are obeyed without a new connection."""
        route = self.load(attrs.evolve(self.app, resend="never", lost_account_notice=False))
        self.assertIs(route.provider, self.route.provider)
        self.assertEqual((route.resend, route.lost_account_notice), (Resend.NEVER, False))

    def test_settings_of_the_provider(self) -> None:
        """A key, an address or other trusted roots make another provider."""
        others = [
            self.load(attrs.evolve(self.app, api_key="other")),
            self.load(attrs.evolve(self.app, url="https://relay.example/")),
            self.load(self.app, roots="other"),
            self.load(attrs.evolve(self.app, ca_file=Path("roots.pem"))),
        ]
        providers = {id(route.provider) for route in [self.route, *others]}
        self.assertEqual(len(providers), 5)


class AppleTests(AppleTestCase):
    """An iOS app, from its configuration to a push."""

    def load(self, lines: str) -> tuple[Providers, Metrics, Mapping[AppKey, InstrumentedRoute]]:
        """The providers of a configuration with these lines, started."""
        ini = self.folder / "middlewared.ini"
        ini.write_text(f"[app:{APP}:apns]\nca_file = {self.authority.certificate}\n{lines}")
        apps = load_apps(read_config(ini, {}), now=reactor.seconds())
        metrics = Metrics()
        providers = Providers(
            reactor=reactor, clock=reactor, endpoints=DirectEndpoints(reactor), metrics=metrics
        )
        routes = providers.routes(apps)
        for route in routes.values():
            Deferred.fromCoroutine(route.provider.start())
            self.addCleanup(stop, route.provider)
        return providers, metrics, routes

    async def test_a_key_for_each_environment(self) -> None:
        """With metrics of the connections: round trips and states."""
        other = write_provider_key(self.folder, key_id="SANDBOXKEY")
        production = await self.serve(tokens=[TOKEN])
        sandbox = await self.serve(environment="sandbox", provider_keys=[other])
        providers, metrics, routes = self.load(
            f"key_file = {self.key.path}\nkey_id = {self.key.key_id}\n"
            f"team_id = {self.key.team_id}\n"
            f"sandbox_key_file = {other.path}\nsandbox_key_id = {other.key_id}\n"
            f"production_url = {production.url}\nsandbox_url = {sandbox.url}\n"
        )
        (route,) = routes.values()
        self.assertEqual(await route.provider.send(call_push()), Accepted())
        sent = await route.provider.send(call_push(OTHER_TOKEN, sandbox=True))
        self.assertEqual(sent, Accepted())
        self.assertEqual(providers.apns_connections(), providers.provider_connections())
        for environment in ("production", "sandbox"):
            self.assertIn((APP, environment, "ready"), providers.provider_connections())
            name = "middlewared_provider_ping_seconds_count"
            labels = {"app": APP, "environment": environment}
            while not metrics.registry.get_sample_value(name, labels):
                await deferLater(reactor, 0.01)

    async def test_a_sandbox_key_that_cannot_be_read(self) -> None:
        """The problem names the configuration key."""
        lines = (
            f"key_file = {self.key.path}\nkey_id = ABCDE12345\nteam_id = FGHIJ67890\n"
            "sandbox_key_file = missing.p8\nsandbox_key_id = KLMNO12345\n"
        )
        error = self.assertRaises(ConfigError, self.load, lines)
        (problem,) = error.problems
        self.assertEqual(problem.key, "sandbox_key_file")
        self.assertEqual(problem.what, f"{self.folder}/missing.p8: no such file or directory")

    async def test_the_sandbox_is_off(self) -> None:
        """No connection, no push."""
        apple = await self.serve()
        providers, _, routes = self.load(
            f"certificate = {self.authority.apns_client()}\n"
            f"production_url = {apple.url}\nsandbox_url =\n"
        )
        (route,) = routes.values()
        self.assertEqual(await route.provider.send(call_push(sandbox=True)), SANDBOX_OFF)
        self.assertEqual(
            {environment for _, environment, _ in providers.apns_connections()}, {"production"}
        )


def stop(provider: InstrumentedProvider) -> Deferred[None]:
    """Stop a provider."""
    return Deferred.fromCoroutine(provider.stop())


class AndroidTests(GoogleTestCase):
    """Two Android apps with the service account of one Firebase project."""

    def new_provider(self) -> PushProvider:
        """Writes the account's file; the apps have providers of their own."""
        return self.new_fcm()

    def load(self, providers: Providers, *apps: str) -> Mapping[AppKey, InstrumentedRoute]:
        """The routes of a configuration with these apps, started."""
        ini = self.folder / "middlewared.ini"
        lines = (
            f"url = {self.google.url}\nservice_account = {self.folder / 'account.json'}\n"
            f"ca_file = {self.authority.certificate}\n"
        )
        ini.write_text("".join(f"[app:{app}:android]\n{lines}" for app in apps))
        routes = providers.routes(load_apps(read_config(ini, {}), now=reactor.seconds()))
        for route in routes.values():
            self.kept(route.provider)
        return routes

    async def test_they_share_connections_over_reloads(self) -> None:
        """Two connections and one access token for both, and for an app that comes later."""
        await self.provider.stop()
        issued, opened = self.google.oauth.issued_count, self.google.protocols["h2"]
        providers = Providers(
            reactor=reactor,
            clock=reactor,
            endpoints=DirectEndpoints(reactor),
            metrics=Metrics(),
        )
        for apps in (("one", "two"), ("one", "two", "three"), ("three",)):
            for (app, _), route in self.load(providers, *apps).items():
                push = google_call_push()
                self.assertEqual(await route.provider.send(push), Accepted(), app)
        self.assertEqual(self.google.protocols["h2"] - opened, 2)
        self.assertEqual(self.google.oauth.issued_count - issued, 1)
