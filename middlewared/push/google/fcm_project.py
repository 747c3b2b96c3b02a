"""
What the apps of one service account share: its access token, and the connections to FCM.

Pushes go over HTTP/2. They go over HTTP/1.1 to ``http://`` relays, and as long as a server does
not choose HTTP/2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import quote, urlsplit

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.outgoing.interface import TcpEndpoints, WarmHttpClient
from middlewared.push.google.oauth import AccessToken, AccessTokens
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.http2.connector import PeerHabits, tls_endpoint
from middlewared.push.http2.header_blocks import (
    METHOD_POST,
    SCHEME_HTTPS,
    SIZE_OVERHEAD,
    StaticName,
    literal,
)
from middlewared.push.http2.pool import HostPools, Http2Pool

CONNECTIONS = 2
"""Each takes 100 requests at a time, as Google's servers allow."""

_ROUTINE = ("session_time", "max_age")
"""In the GOAWAYs by which Google ends a connection after 4 idle minutes, or after an hour."""


def _is_routine(goaway: str) -> bool:
    return any(word in goaway for word in _ROUTINE)


GOOGLE = PeerHabits(pings_at_rest=False, speaks_http1=True, is_routine=_is_routine)
"""Google closes a connection on which three PINGs come without a request (too_many_pings)."""


class ProjectUser(Protocol):
    """A provider of one app."""

    def on_round_trip(self, seconds: float) -> None:
        """A PING to FCM was acknowledged after ``seconds``."""


class FcmProject:
    """
    The first app that uses it starts it, the last one stops it.

    :param url: the base URL, ``https://fcm.googleapis.com``.
    :param http: fetches access tokens, and pushes over HTTP/1.1; closed with the project.
    :param tls: gives the TLS settings for a host, with ALPN ``h2`` and ``http/1.1``.
    :param connections: how many are kept ready.
    :param host_pools: of this process.
    :ivar url: where to POST messages.
    :ivar pool: None: the server is an ``http://`` relay.
    """

    def __init__(
        self,
        *,
        account: ServiceAccount,
        url: str,
        http: WarmHttpClient,
        endpoint: TcpEndpoints,
        tls: Callable[[str], IOpenSSLClientConnectionCreator],
        clock: Clock,
        connections: int = CONNECTIONS,
        host_pools: HostPools | None = None,
        wall: WallClock = wall_clock,
    ) -> None:
        project = quote(account.project_id, safe="")
        self.url = f"{url.rstrip('/')}/v1/projects/{project}/messages:send"
        self.http = http
        self.tokens = AccessTokens(account=account, http=http, clock=clock, wall=wall)
        self._users: set[ProjectUser] = set()
        self._stopped = False
        self._uses_http1 = False
        self._head = _RequestHead(self.url)
        self.pool: Http2Pool | None = None
        if urlsplit(self.url).scheme == "https":
            host, secured = tls_endpoint(self.url, endpoint, tls)
            self.pool = Http2Pool(
                name=f"FCM {account.project_id}",
                clock=clock,
                host=host,
                endpoint=secured,
                size=connections,
                host_pools=host_pools or HostPools(),
                peer="Google",
                habits=GOOGLE,
                on_round_trip=self._on_round_trip,
            )

    @property
    def usable(self) -> bool:
        """Whether it can be started, or used by another app."""
        return not self._stopped

    async def start(self, user: ProjectUser) -> None:
        """Connect and fetch the first access token, so that no call has to wait for them."""
        if not self._users:
            self.tokens.start()
            if self.pool is None:
                self.use_http1()
            else:
                self.pool.start()
        self._users.add(user)

    async def stop(self, user: ProjectUser) -> None:
        """Close all connections if no other app uses them."""
        self._users.discard(user)
        if self._users or self._stopped:
            return
        self._stopped = True
        await self.tokens.stop()
        if self.pool is not None:
            await self.pool.stop()
        await self.http.close()

    def use_http1(self) -> None:
        """Pushes go over HTTP/1.1: keep a connection ready."""
        self._uses_http1 = True
        self.http.keep_warm(self.url)

    def connection_states(self) -> Mapping[str, int]:
        """How many connections to FCM there are, by state."""
        states = Counter(self.pool.states() if self.pool is not None else {})
        if self._uses_http1:
            states.update(self.http.connection_states(self.url))
        return states

    def header_block(self, token: AccessToken) -> tuple[bytes, int]:
        """The encoded headers of a request, and the size of their list."""
        return self._head.with_token(token)

    def _on_round_trip(self, seconds: float) -> None:
        for user in self._users:
            user.on_round_trip(seconds)


class _RequestHead:
    """The headers of all pushes, encoded once for each access token."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._authority, self._path = parts.netloc.encode(), parts.path.encode()
        self._token: AccessToken | None = None
        self._encoded = b"", 0

    def with_token(self, token: AccessToken) -> tuple[bytes, int]:
        if token is not self._token:
            self._token, self._encoded = token, self._encode(b"Bearer " + token.text.encode())
        return self._encoded

    def _encode(self, authorization: bytes) -> tuple[bytes, int]:
        content_type = b"application/json; charset=UTF-8"
        block = (
            METHOD_POST + SCHEME_HTTPS,
            literal(StaticName.AUTHORITY, self._authority),
            literal(StaticName.PATH, self._path),
            literal(StaticName.CONTENT_TYPE, content_type),
            literal(StaticName.AUTHORIZATION, authorization, sensitive=True),
        )
        names = b":method", b":scheme", b":authority", b":path", b"content-type", b"authorization"
        values = b"POST", b"https", self._authority, self._path, content_type, authorization
        size = sum(len(text) for text in names + values) + SIZE_OVERHEAD * len(names)
        return b"".join(block), size
