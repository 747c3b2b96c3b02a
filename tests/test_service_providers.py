"""Which providers a reload keeps, and which it makes anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as installed_reactor
from twisted.trial.unittest import SynchronousTestCase

from middlewared.config import GcmApp
from middlewared.metrics import Metrics
from middlewared.model import Platform
from middlewared.outgoing.endpoints import DirectEndpoints
from middlewared.outgoing.tls import load_trust
from middlewared.push.interface import Resend
from middlewared.service.apps import LoadedApp
from middlewared.service.providers import Providers

reactor: Any = installed_reactor
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
