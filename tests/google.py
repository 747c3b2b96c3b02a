"""A simulated Google over TLS with one app, for tests of the Google providers."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from middlewared.model import Call, Device, IncomingCall, Platform
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.google.fcm import FcmProvider
from middlewared.push.google.fcm_project import FcmProject
from middlewared.push.google.legacy import LegacyProvider, fcm_send_url
from middlewared.push.google.service_account import ServiceAccount as Account
from middlewared.push.google.service_account import load_service_account
from middlewared.push.interface import CallPush, Push, PushProvider, PushResult, Uncertain
from middlewared.simulator.certificates import (
    Authority,
    IssuedServiceAccount,
    write_service_account,
)
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.scripts import Deliver, Stall
from tests.cuttable import CuttableProxy

reactor = cast(Any, twisted_reactor)
API_KEY = "AIza-secret"
TOKEN = "device-token:APA91"


@functools.cache
def service_account_file() -> bytes:
    """The content of a key file; generating the key is slow."""
    with tempfile.TemporaryDirectory() as folder:
        return write_service_account(Path(folder), token_uri="URI").path.read_bytes()


def as_google_knows(account: Account, path: Path) -> IssuedServiceAccount:
    """The account with its public key."""
    public = account.private_key.public_key()
    return IssuedServiceAccount(
        path=path,
        project_id=account.project_id,
        client_email=account.client_email,
        private_key_id=account.private_key_id,
        token_uri=account.token_uri,
        public_key_pem=public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).decode(),
    )


def device(token: str = TOKEN) -> Device:
    return Device(sip_user_id=123456789, platform=Platform.ANDROID, app="app", token=token)


def call_push(wait_s: float = 4.0, token: str = TOKEN, **options: Any) -> CallPush:
    now = reactor.seconds()
    incoming = IncomingCall(123456789, "+31612345678", "Jan", "call-1")
    call = Call("0123456789abcdef0123456789abcdef", incoming, now, now + wait_s, now)
    return CallPush(device(token), call, 1, "https://mw.example/api/call-response/", **options)


class GoogleTestCase(TestCase):
    """A simulated Google over TLS, with one app."""

    attempt_timeout_s = 5.0
    rest_s = 60.0
    certified = True
    google_options: ClassVar[Mapping[str, Any]] = {}
    is_gated = False
    gate: CuttableProxy | None = None
    """Through which the provider finds Google's FCM."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Start the server and create the provider."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = Authority(folder=self.folder)
        self.google = GoogleServer(
            reactor=reactor,
            certificate=self.authority.server() if self.certified else None,
            api_keys=[API_KEY],
            **self.google_options,
        )
        port = await self.google.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))
        if self.is_gated:
            self.gate = gate = CuttableProxy(("127.0.0.1", port))
            await gate.start()
            self.addCleanup(lambda: Deferred.fromCoroutine(gate.stop()))
        self.provider = self.new_provider()

    def new_client(self) -> PooledHttpClient:
        return PooledHttpClient(
            reactor=reactor,
            endpoints=DirectEndpoints(reactor),
            tls=ClientTLS(trust=load_trust(self.authority.certificate)),
            rest_s=self.rest_s,
        )

    def new_provider(self) -> PushProvider:
        raise NotImplementedError

    def base_url(self) -> str:
        """The base URL of Google for the provider."""
        return self.google.url if self.gate is None else "https://{}:{}".format(*self.gate.node)

    def new_fcm(self, url: str = "", token_uri: str = "", **options: Any) -> FcmProvider:
        """A provider for FCM v1 whose account is trusted; its token server is Google itself."""
        path = self.folder / "account.json"
        uri = token_uri or self.google.token_uri
        content = service_account_file().replace(b'"URI"', f'"{uri}"'.encode())
        path.write_bytes(content)
        self.account = load_service_account(path)
        self.google.trust(as_google_knows(self.account, path))
        project = FcmProject(
            account=self.account,
            url=url or self.base_url() + "/",
            http=self.new_client(),
            endpoint=DirectEndpoints(reactor),
            tls=ClientTLS(
                trust=load_trust(self.authority.certificate), protocols=[b"h2", b"http/1.1"]
            ),
            clock=reactor,
        )
        provider = FcmProvider(
            app="app",
            project=project,
            clock=reactor,
            attempt_timeout_s=self.attempt_timeout_s,
            **options,
        )
        self.kept(provider)
        return provider

    def new_legacy(self, api_key: str = API_KEY, url: str = "") -> LegacyProvider:
        """A provider for the legacy protocol."""
        provider = LegacyProvider(
            app="app",
            api_key=api_key,
            url=url or fcm_send_url(self.base_url()),
            http=self.new_client(),
            clock=reactor,
            attempt_timeout_s=self.attempt_timeout_s,
        )
        self.kept(provider)
        return provider

    def kept(self, provider: PushProvider) -> PushProvider:
        """``provider``, started; it is stopped after the test."""
        Deferred.fromCoroutine(provider.start())
        self.addCleanup(lambda: Deferred.fromCoroutine(provider.stop()))
        return provider

    def sending(self, push: Push | None = None) -> Deferred[PushResult]:
        return Deferred.fromCoroutine(self.provider.send(push or call_push()))

    async def send(self, push: Push | None = None) -> PushResult:
        return await self.provider.send(push or call_push())

    def stalled_push(self) -> tuple[Deferred[PushResult], Deferred[object]]:
        """A push that is never answered, and a Deferred for its arrival."""
        self.google.scripts.for_token(TOKEN, Deliver(), Stall())
        arrived: Deferred[object] = Deferred()
        self.google.record.listener = arrived.callback
        return self.sending(), arrived

    def assert_uncertain(self, result: PushResult, reason: str) -> None:
        """The push was completely sent just now, and no status came."""
        assert isinstance(result, Uncertain), result
        self.assertEqual(result.reason, reason)
        self.assertTrue(0 <= reactor.seconds() - result.sent_at < 30)
