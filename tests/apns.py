"""For tests of a provider that talks to the simulated Apple over loopback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import attrs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.trial.unittest import TestCase

from middlewared.model import Call, Device, IncomingCall, Platform
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.apns.apple_credentials import (
    CertificateCredentials,
    Credentials,
    load_certificate,
    load_key,
)
from middlewared.push.apns.provider import ApnsProvider, ApnsSettings
from middlewared.push.apns.provider_tokens import ProviderTokens
from middlewared.push.http2.pool import HostPools
from middlewared.push.interface import CallPush, Push, PushResult, Uncertain, always_wanted
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority, write_provider_key
from tests.cuttable import CuttableProxy

reactor: Any = _reactor
APP = "com.voipgrid.vialer"
TOKEN = "ab" * 32
OTHER_TOKEN = "cd" * 32


def device(token: str = TOKEN, *, sandbox: bool = False, notices: str = "") -> Device:
    """An iPhone."""
    return Device(
        sip_user_id=123456789,
        platform=Platform.APNS,
        app=APP,
        token=token,
        sandbox=sandbox,
        remote_notification_token=notices,
    )


def call_push(
    token: str = TOKEN,
    *,
    sandbox: bool = False,
    wait_s: float = 4.0,
    now: float | None = None,
    wanted: Callable[[], bool] = always_wanted,
) -> CallPush:
    """A call that waits ``wait_s`` from now on."""
    started_at = reactor.seconds() if now is None else now
    call = Call(
        unique_key=uuid4().hex,
        incoming=IncomingCall(123456789, "+31612345678", "Alice", "call-1"),
        started_at=started_at,
        deadline=started_at + wait_s,
        start_time=started_at,
    )
    return CallPush(
        device=device(token, sandbox=sandbox),
        call=call,
        attempt=1,
        response_api="https://pbx.example/api/call-response/",
        wanted=wanted,
    )


def tcp(host: str, port: int) -> IStreamClientEndpoint:
    """A direct connection."""
    return cast(IStreamClientEndpoint, TCP4ClientEndpoint(reactor, host, port, timeout=5))


def by_way_of(relay: CuttableProxy) -> TcpEndpoints:
    """Endpoints that connect through ``relay``, whatever the host."""
    return lambda host, port: tcp(*relay.node)


class AppleTestCase(TestCase):
    """Both of Apple's environments, their authority, and providers that are stopped at the end."""

    connections = 2

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.authority = Authority(folder=self.folder)
        self.key = write_provider_key(self.folder)
        self.tokens = ProviderTokens(clock=reactor)
        self.host_pools = HostPools()

    async def serve(self, **options: Any) -> AppleServer:
        """Start an Apple that trusts our certificates and knows our key."""
        options.setdefault("client_authority", self.authority.certificate)
        options.setdefault("provider_keys", [self.key])
        server = AppleServer(
            reactor=reactor, certificate=self.authority.server(name=uuid4().hex), **options
        )
        await server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        return server

    def by_certificate(self) -> Credentials:
        """A good VoIP certificate."""
        return load_certificate(self.authority.apns_client(), now=reactor.seconds())

    def by_key(self) -> Credentials:
        """A good key for provider tokens."""
        key = self.key
        return load_key(key.path, team_id=key.team_id, key_id=key.key_id)

    def settings(
        self,
        production: str,
        sandbox: str | None = None,
        *,
        credentials: Credentials | None = None,
        sandbox_credentials: Credentials | None = None,
        connections: int | None = None,
    ) -> ApnsSettings:
        """Settings for servers at these URLs; with the certificate by default."""
        shown = credentials or self.by_certificate()
        own = shown.certificate if isinstance(shown, CertificateCredentials) else None
        trust = load_trust(self.authority.certificate)
        return ApnsSettings(
            app=APP,
            topic=f"{APP}.voip",
            credentials=shown,
            tls=ClientTLS(trust=trust, certificate=own, protocols=[b"h2"]),
            production_url=production,
            sandbox_url=production if sandbox is None else sandbox,
            connections=connections or self.connections,
            sandbox_credentials=sandbox_credentials,
        )

    async def relay(self, apple: AppleServer, *, delay_s: float = 0.0) -> CuttableProxy:
        """A relay to ``apple``, for network faults."""
        relay = CuttableProxy(("127.0.0.1", urlsplit(apple.url).port or 0))
        relay.delay_s = delay_s
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        return relay

    def provide(self, settings: ApnsSettings, **options: Any) -> ApnsProvider:
        """A started provider; ``options`` are passed to it."""
        defaults: dict[str, Any] = {
            "clock": reactor,
            "wall": reactor.seconds,
            "endpoint": tcp,
            "host_pools": self.host_pools,
        }
        provider = ApnsProvider(tokens=self.tokens, settings=settings, **{**defaults, **options})
        Deferred.fromCoroutine(provider.start())
        self.addCleanup(lambda: Deferred.fromCoroutine(provider.stop()))
        return provider

    def assert_uncertain(self, result: PushResult, reason: str, *, since: float) -> None:
        """``result`` is uncertain for ``reason``, and was sent between ``since`` and now."""
        assert isinstance(result, Uncertain), result
        self.assertEqual(result.reason, reason)
        self.assertTrue(since <= result.sent_at <= reactor.seconds(), result)

    def sending(self, provider: ApnsProvider, push: Push) -> Deferred[PushResult]:
        """Send without waiting."""
        return Deferred.fromCoroutine(provider.send(push))


def evolve_call(push: CallPush, **changes: Any) -> CallPush:
    """The same push with another incoming call."""
    return attrs.evolve(
        push, call=attrs.evolve(push.call, incoming=attrs.evolve(push.call.incoming, **changes))
    )
