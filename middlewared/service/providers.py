"""
Creating the provider of each app, and keeping those that a reload does not change.

A provider is replaced only if its settings or credentials have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import attrs

from middlewared.clock import Clock
from middlewared.config import AndroidApp, AppleApp
from middlewared.metrics import Metrics
from middlewared.model import Platform
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.outgoing.tls import ClientTLS
from middlewared.push.apns.apple_connections import AppleConnections
from middlewared.push.apns.apple_credentials import CertificateCredentials, KeyCredentials
from middlewared.push.apns.provider import ApnsProvider, ApnsSettings
from middlewared.push.apns.provider_tokens import ProviderTokens
from middlewared.push.google.fcm import FcmProvider
from middlewared.push.google.fcm_project import FcmProject
from middlewared.push.google.legacy import LegacyProvider, fcm_send_url
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.http2.pool import HostPools
from middlewared.push.instrumented import InstrumentedProvider, OnResult
from middlewared.push.interface import PushProvider, Resend
from middlewared.push.routing import InstrumentedRoute
from middlewared.push.shared_connections import SharedConnections
from middlewared.service.apps import AppKey, LoadedApp
from middlewared.service.certificate_checks import sends_alerts


class Providers:
    """
    Creates the routes of loaded apps.

    :param endpoints: of every connection to a provider.
    :param on_result: called with every result.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        clock: Clock,
        endpoints: TcpEndpoints,
        metrics: Metrics,
        on_result: OnResult = lambda *_: None,
    ) -> None:
        self._on_result = on_result
        self._reactor = reactor
        self._clock = clock
        self._endpoints = endpoints
        self._metrics = metrics
        self._tokens = ProviderTokens(clock=clock)
        self._host_pools = HostPools()
        self._apple_connections: SharedConnections[AppleConnections] = SharedConnections()
        self._projects: SharedConnections[FcmProject] = SharedConnections()
        self._tls: WeakValueDictionary[Hashable, ClientTLS] = WeakValueDictionary()
        self._current: dict[AppKey, tuple[LoadedApp, InstrumentedProvider]] = {}

    def routes(self, apps: Mapping[AppKey, LoadedApp]) -> dict[AppKey, InstrumentedRoute]:
        """The routes of ``apps``; the caller starts their providers."""
        current, routes = {}, {}
        for key, loaded in apps.items():
            known, provider = self._current.get(key, (None, None))
            same = known is not None and _provider_settings(known) == _provider_settings(loaded)
            if provider is None or not same:
                provider = self._instrumented(loaded)
            current[key] = (loaded, provider)
            routes[key] = InstrumentedRoute(
                provider=provider,
                resend=Resend(loaded.app.resend),
                lost_account_notice=_notifies(loaded),
                response_api=loaded.app.response_api,
                resend_interval_s=loaded.app.resend_interval_s,
                template=loaded.template,
            )
        self._current = current
        return routes

    def apns_connections(self) -> dict[tuple[str, str, str], int]:
        """Connections to Apple by app, environment and state."""
        return self._connections(Platform.APNS)

    def provider_connections(self) -> dict[tuple[str, str, str], int]:
        """Connections of all providers, by app, environment and state."""
        return self._connections(*Platform)

    def _connections(self, *platforms: Platform) -> dict[tuple[str, str, str], int]:
        counts: Counter[tuple[str, str, str]] = Counter()
        for (app, platform), (_, provider) in self._current.items():
            if platform in platforms:
                for state, count in provider.connection_states().items():
                    counts[app, *state] += count
        return dict(counts)

    def credential_expiry(self) -> dict[AppKey, float]:
        """When credentials expire, in epoch seconds; those that do not are left out."""
        return {
            key: expiry
            for key, (_, provider) in self._current.items()
            if (expiry := provider.credential_expiry) is not None
        }

    def _instrumented(self, loaded: LoadedApp) -> InstrumentedProvider:
        return InstrumentedProvider(
            provider=self._provider(loaded),
            clock=self._clock,
            metrics=self._metrics,
            app=loaded.app.app,
            platform=loaded.app.platform,
            on_result=self._on_result,
        )

    def _provider(self, loaded: LoadedApp) -> PushProvider:
        app = loaded.app
        if isinstance(app, AppleApp):
            return self._apple(app, loaded)
        if isinstance(app, AndroidApp) and isinstance(loaded.credentials, ServiceAccount):
            return FcmProvider(
                app=app.app,
                project=self._project(app, loaded, loaded.credentials),
                clock=self._clock,
                address=app.address,
                analytics_label=app.analytics_label,
                on_round_trip=partial(self._metrics.provider_ping, app.app, "production"),
            )
        url = fcm_send_url(app.url) if isinstance(app, AndroidApp) else app.url
        return LegacyProvider(
            app=app.app,
            api_key=app.api_key,
            url=url,
            http=self._http_client(loaded),
            clock=self._clock,
        )

    def _project(self, app: AndroidApp, loaded: LoadedApp, account: ServiceAccount) -> FcmProject:
        """The one of all apps of the account at this server."""

        def make() -> FcmProject:
            return FcmProject(
                account=account,
                url=app.url,
                http=self._http_client(loaded),
                endpoint=self._endpoints,
                tls=self._client_tls(loaded, b"h2", b"http/1.1"),
                clock=self._clock,
                host_pools=self._host_pools,
            )

        return self._projects.get((app.url, account, loaded.roots), make)

    def _http_client(self, loaded: LoadedApp) -> PooledHttpClient:
        tls = self._client_tls(loaded)
        return PooledHttpClient(reactor=self._reactor, endpoints=self._endpoints, tls=tls)

    def _client_tls(self, loaded: LoadedApp, *protocols: bytes) -> ClientTLS:
        """The one of all apps with these roots: each holds a copy of the platform's."""
        key = loaded.roots, protocols
        tls = self._tls.get(key)
        if tls is None:
            tls = self._tls[key] = ClientTLS(trust=loaded.trust, protocols=protocols)
        return tls

    def _apple(self, app: AppleApp, loaded: LoadedApp) -> ApnsProvider:
        credentials = loaded.credentials
        if not isinstance(credentials, CertificateCredentials | KeyCredentials):
            raise TypeError("an Apple app without Apple credentials")
        certificate = (
            credentials.certificate if isinstance(credentials, CertificateCredentials) else None
        )
        return ApnsProvider(
            clock=self._clock,
            endpoint=self._endpoints,
            tokens=self._tokens,
            settings=ApnsSettings(
                app=app.app,
                topic=app.topic,
                credentials=credentials,
                tls=ClientTLS(trust=loaded.trust, certificate=certificate, protocols=[b"h2"]),
                production_url=app.production_url,
                sandbox_url=app.sandbox_url,
                connections=app.connections,
                sandbox_credentials=loaded.sandbox_credentials,
                roots=loaded.roots,
            ),
            host_pools=self._host_pools,
            shared=self._apple_connections,
            on_round_trip=partial(self._metrics.provider_ping, app.app),
        )


def _notifies(loaded: LoadedApp) -> bool:
    """Whether lost-account notices are enabled and can be sent."""
    app, credentials = loaded.app, loaded.credentials
    if isinstance(app, AppleApp) and isinstance(credentials, CertificateCredentials):
        return app.lost_account_notice and sends_alerts(app, credentials.scope)
    return app.lost_account_notice


def _provider_settings(loaded: LoadedApp) -> LoadedApp:
    """The app without the settings that do not concern its provider."""
    app = attrs.evolve(
        loaded.app,
        resend="auto",
        lost_account_notice=True,
        accounts_per_token="one",
        response_api="",
        resend_interval_s=None,
        payload=None,
    )
    return attrs.evolve(loaded, app=app, template=None)
