"""Our own clients as the benchmarks of pushes use them: without a daemon around them."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from middlewared.model import Call, Device, IncomingCall, Platform
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, TrustRoots
from middlewared.push.google.fcm import FcmProvider
from middlewared.push.google.fcm_project import CONNECTIONS, FcmProject
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.interface import CallPush, PushProvider

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


def fcm_provider(
    account: ServiceAccount,
    url: str,
    trust: TrustRoots,
    *,
    connections: int = CONNECTIONS,
    protocols: tuple[bytes, ...] = (b"h2", b"http/1.1"),
) -> PushProvider:
    """FCM HTTP v1 as the daemon uses it, at the server ``url``; ``protocols`` are offered."""
    project = FcmProject(
        account=account,
        url=url,
        http=http_client(trust),
        endpoint=DirectEndpoints(reactor),
        tls=ClientTLS(trust=trust, protocols=protocols),
        clock=reactor,
        connections=connections,
    )
    return FcmProvider(app=APP, project=project, clock=reactor)


def http_client(trust: TrustRoots) -> PooledHttpClient:
    """A client over HTTP/1.1 for one provider."""
    endpoints = DirectEndpoints(reactor)
    return PooledHttpClient(reactor=reactor, endpoints=endpoints, tls=ClientTLS(trust=trust))
