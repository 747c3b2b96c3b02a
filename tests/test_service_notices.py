"""Lost-account notices are sent only for apps whose credentials allow them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as installed_reactor
from twisted.trial.unittest import SynchronousTestCase

from middlewared.clock import wall_clock
from middlewared.config import AppleApp, Config
from middlewared.metrics import Metrics
from middlewared.model import Platform
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.service.apps import load_apps
from middlewared.service.providers import Providers
from middlewared.simulator.certificates import Authority, apple_extensions, write_provider_key

reactor: Any = installed_reactor
APP = "com.example.phone"
KEY = (APP, Platform.APNS)


class NoticeRouteTests(SynchronousTestCase):
    """One app, with credentials of each kind."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.providers = Providers(
            reactor=reactor,
            clock=reactor,
            endpoints=DirectEndpoints(reactor),
            metrics=Metrics(),
        )

    def route(self, app: AppleApp) -> Any:
        """The route of ``app``."""
        apps = load_apps(Config(apps={KEY: app}), now=wall_clock())
        return self.providers.routes(apps)[KEY]

    def certified(self, *topics: str) -> AppleApp:
        """The app with a certificate from Apple for ``topics``."""
        extensions = apple_extensions(topics) if topics else ()
        path = Authority(folder=self.folder).apns_client(topic=f"{APP}.voip", extensions=extensions)
        return AppleApp(app=APP, certificate=path)

    def test_voip_certificate(self) -> None:
        """It cannot send alerts, so none are tried."""
        app = self.certified(f"{APP}.voip")
        self.assertFalse(self.route(app).lost_account_notice)

    def test_certificates_that_may_send_alerts(self) -> None:
        """The universal one, and one that is not from Apple."""
        for topics in ((APP, f"{APP}.voip"), ()):
            app = self.certified(*topics)
            self.assertTrue(self.route(app).lost_account_notice)
            self.assertFalse(
                self.route(attrs.evolve(app, lost_account_notice=False)).lost_account_notice
            )

    def test_key(self) -> None:
        """It is good for all topics."""
        key = write_provider_key(self.folder)
        app = AppleApp(app=APP, key_file=key.path, key_id=key.key_id, team_id=key.team_id)
        self.assertTrue(self.route(app).lost_account_notice)

    def test_accounts_of_a_phone(self) -> None:
        """A reload that changes accounts_per_token creates no new provider."""
        app = self.certified()
        before = self.route(app).provider
        self.assertIs(self.route(attrs.evolve(app, accounts_per_token="many")).provider, before)
