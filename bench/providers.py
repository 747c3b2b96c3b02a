"""Our own clients as the benchmarks of pushes use them: without a daemon around them."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterable
from typing import Any
from urllib.parse import urlsplit

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.http_headers import Headers

from middlewared.clock import wall_clock
from middlewared.model import Call, Device, IncomingCall, Platform
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.interface import HttpResponse
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, TrustRoots
from middlewared.push.google.fcm import FcmProvider, interpret
from middlewared.push.google.google_payload import google_data, time_to_live_s
from middlewared.push.google.oauth import AccessToken, AccessTokens
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.http2.exchange import Exchange, Response
from middlewared.push.http2.header_blocks import METHOD_POST, SCHEME_HTTPS, StaticName, literal
from middlewared.push.http2.pool import HostPools, Http2Pool
from middlewared.push.interface import CallPush, PushProvider, PushResult

reactor: Any = _reactor
APP = "com.voipgrid.vialer"
WAIT_S = 4.0


def make_push(number: int, platform: Platform, token: str) -> CallPush:
    """A call as the daemon would have it: token, key and account of its own."""
    now = reactor.seconds()
    incoming = IncomingCall(100_000_000 + number, "+31612345678", "Alice of Sales", "call-7")
    call = Call(f"{number:032x}", incoming, now, now + WAIT_S, now)
    device = Device(incoming.sip_user_id, platform, APP, token)
    return CallPush(device, call, 1, "https://middlewared.example/api/call-response/")


async def together(workers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them at once, to the end of the last."""
    for worker in [Deferred.fromCoroutine(each) for each in workers]:
        await worker


def fcm_provider(account: ServiceAccount, url: str, trust: TrustRoots) -> PushProvider:
    """FCM HTTP v1 as the daemon uses it, at the server ``url``."""
    return FcmProvider(app=APP, account=account, url=url, http=http_client(trust), clock=reactor)


def http_client(trust: TrustRoots) -> PooledHttpClient:
    """A client over HTTP/1.1 for one provider."""
    endpoints = DirectEndpoints(reactor)
    return PooledHttpClient(reactor=reactor, endpoints=endpoints, tls=ClientTLS(trust=trust))


class BareFcm:
    """FCM HTTP v1 straight on the HTTP/2 pool: what a provider on it costs at least."""

    def __init__(self, account: ServiceAccount, url: str, trust: TrustRoots) -> None:
        endpoints = DirectEndpoints(reactor)
        self._http = http_client(trust)
        self._tokens = AccessTokens(
            account=account, http=self._http, clock=reactor, wall=wall_clock
        )
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        creator = ClientTLS(trust=trust, protocols=[b"h2"])(host)

        def endpoint() -> IStreamClientEndpoint:
            secured: IStreamClientEndpoint = wrapClientTLS(creator, endpoints(host, port))
            return secured

        path = f"/v1/projects/{account.project_id}/messages:send"
        self._start = METHOD_POST + SCHEME_HTTPS
        self._start += literal(StaticName.AUTHORITY, parts.netloc.encode())
        self._start += literal(StaticName.PATH, path.encode())
        self._start += literal(b"content-type", b"application/json; charset=UTF-8")
        self._authorization: tuple[AccessToken | None, bytes] = (None, b"")
        self._pool = Http2Pool(
            name="bench",
            clock=reactor,
            host=f"{host}:{port}",
            endpoint=endpoint,
            size=1,
            host_pools=HostPools(),
            peer="Google",
        )

    async def start(self) -> None:
        """Connect and fetch the access token."""
        self._tokens.start()
        self._pool.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self._tokens.stop()
        await self._pool.stop()
        await self._http.close()

    async def send(self, push: CallPush) -> PushResult:
        """Push, and read Google's response."""
        token = await self._tokens.get()
        if not isinstance(token, AccessToken):
            return token
        exchange = Exchange(
            header_block=self._start + self._authorization_of(token),
            body=_message(push),
            deadline=push.deadline,
            wanted=push.wanted,
        )
        self._pool.submit(exchange)
        end = await exchange.ended
        if not isinstance(end, Response):
            return end
        return interpret(HttpResponse(end.status, Headers(), end.body), wall_clock())

    def _authorization_of(self, token: AccessToken) -> bytes:
        if self._authorization[0] is not token:
            value = b"Bearer " + token.text.encode()
            header = literal(StaticName.AUTHORIZATION, value, sensitive=True)
            self._authorization = (token, header)
        return self._authorization[1]


def _message(push: CallPush) -> bytes:
    ttl_s = time_to_live_s(push, reactor.seconds())
    message = {
        "token": push.device.token,
        "data": google_data(push),
        "android": {"priority": "HIGH", "ttl": f"{ttl_s:.3f}s"},
    }
    return json.dumps({"message": message}, separators=(",", ":")).encode()
