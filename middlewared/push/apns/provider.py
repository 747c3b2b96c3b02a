"""
Pushes of one app through Apple.

The one invariant: one ``send`` is one request to Apple, except where Apple's own answer
asks for a second: a provider token that expired, or a device of the other environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import attrs
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from middlewared.background import Background
from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.push.apns.alarm import MassRefusal
from middlewared.push.apns.credentials import Credentials, KeyCredentials
from middlewared.push.apns.exchange import Answer, Exchange, always_wanted
from middlewared.push.apns.payload import apple_call_payload, apple_notice_payload
from middlewared.push.apns.pool import Pool
from middlewared.push.apns.reasons import (
    BAD_DEVICE_TOKEN,
    EXPIRED_PROVIDER_TOKEN,
    LEAVING,
    PAYLOAD_TOO_LARGE,
    judge,
)
from middlewared.push.apns.request import NOTICE_LIFE_S, RequestKind, authorization_header
from middlewared.push.apns.token import ProviderToken, ProviderTokens
from middlewared.push.interface import (
    MALFORMED_TOKEN,
    Accepted,
    CallPush,
    ConfigFault,
    Push,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)

OTHER_ENVIRONMENT_S = 1.5
"""How long the other environment may take: the caller should soon hear that nobody rings."""
HTTPS = 443
_TOKEN = re.compile(r"[0-9A-Fa-f]{2,200}")


class Endpoints(Protocol):
    """Where TCP connections begin."""

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint: ...


@attrs.frozen
class ApnsSettings:
    """
    What is configured for one app.

    ``tls`` gives the TLS set-up for a host: trusted roots, ALPN ``h2`` and, with
    certificate credentials, that certificate.
    """

    app: str
    topic: str
    credentials: Credentials
    tls: Callable[[str], IOpenSSLClientConnectionCreator] = attrs.field(repr=False, eq=False)
    production_url: str = "https://api.push.apple.com"
    sandbox_url: str = "https://api.sandbox.push.apple.com"
    connections: int = 2


@attrs.frozen
class Message:
    """
    What a push comes to for Apple: ``call`` tells VoIP from alert.

    ``expiration`` is in epoch seconds, since Apple reads it; ``deadline`` is ours.
    """

    call: bool
    token: str = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    expiration: float
    deadline: float
    wanted: Callable[[], bool] = attrs.field(repr=False)


@attrs.frozen
class Environment:
    """One of Apple's two: its connections, and how requests to it begin."""

    pool: Pool
    call: RequestKind
    notice: RequestKind


class ApnsProvider:
    """Implements :class:`~middlewared.push.interface.PushProvider`."""

    def __init__(
        self,
        *,
        clock: Clock,
        endpoint: Endpoints,
        tokens: ProviderTokens,
        settings: ApnsSettings,
        wall: WallClock = wall_clock,
    ) -> None:
        """:param tokens: shared by all apps of the process."""
        self._clock = clock
        self._wall = wall
        self._endpoint = endpoint
        self._tokens = tokens
        self._settings = settings
        self._alarms = {
            call: MassRefusal(app=settings.app, kind=kind, clock=clock)
            for call, kind in ((True, "calls"), (False, "notices"))
        }
        self._environments = self._make_environments()
        self._background = Background()
        self._encoded: tuple[ProviderToken, bytes] | None = None

    @property
    def credential_expiry(self) -> float | None:
        """When the certificate expires, in epoch seconds; None for a key."""
        return self._settings.credentials.not_after

    def connection_states(self) -> Mapping[tuple[str, str], int]:
        """How many connections there are for each (environment, state)."""
        return {
            (name, state): count
            for name, environment in self._environments.items()
            for state, count in environment.pool.states().items()
        }

    def start(self) -> None:
        """Begin to connect to both environments."""
        for environment in self._environments.values():
            environment.pool.start()

    async def stop(self) -> None:
        """Close all connections; pushes in flight end as Temporary."""
        for environment in self._environments.values():
            self._background.run(environment.pool.stop())
        await self._background.finish()

    async def send(self, push: Push) -> PushResult:
        """Send ``push``; see the interface."""
        message = _message(push, self._wall() - self._clock.seconds())
        if message is None:
            return Rejected("no notification token")
        # It becomes part of a path, where "../" or "%2e" would mean something.
        if _TOKEN.fullmatch(message.token) is None:
            return MALFORMED_TOKEN
        home = self._environments["sandbox" if push.device.sandbox else "production"]
        result = await self._attempt(home, message)
        if result.reason == PAYLOAD_TOO_LARGE and isinstance(push, CallPush):
            # Our own limit is Apple's published one; only the caller's name can be spared.
            message = attrs.evolve(message, body=apple_call_payload(push, with_name=False))
            result = await self._attempt(home, message)
        if isinstance(result, TokenSuspect):
            return await self._suspect(message, push.device.sandbox, result)
        if isinstance(result, Accepted):
            self._alarms[message.call].accepted()
        return result

    async def _suspect(self, message: Message, sandbox: bool, result: TokenSuspect) -> PushResult:
        """A suspect token may be good in the other environment; many are a fault of ours."""
        if result.reason == BAD_DEVICE_TOKEN:
            other = self._environments["production" if sandbox else "sandbox"]
            soon = min(message.deadline, self._clock.seconds() + OTHER_ENVIRONMENT_S)
            second = await self._attempt(other, attrs.evolve(message, deadline=soon))
            if isinstance(second, Accepted):
                return Accepted(other_environment=True)
            if isinstance(second, TokenDead):
                return second
        if self._alarms[message.call].refused(result.reason, message.token):
            return ConfigFault(result.reason)
        return result

    async def _attempt(self, environment: Environment, message: Message) -> PushResult:
        """One request, and a second one when only the provider token was too old."""
        credentials = self._settings.credentials
        if not isinstance(credentials, KeyCredentials):
            return await self._request(environment, message, b"")
        token = self._tokens.current(credentials)
        result = await self._request(environment, message, self._authorization(token))
        if result.reason == EXPIRED_PROVIDER_TOKEN:
            newer = self._tokens.expired(credentials, token)
            if newer is not None:
                return await self._request(environment, message, self._authorization(newer))
        return result

    async def _request(
        self, environment: Environment, message: Message, authorization: bytes
    ) -> PushResult:
        kind = environment.call if message.call else environment.notice
        exchange = Exchange(
            block=kind.block(
                token=message.token, authorization=authorization, expiration=message.expiration
            ),
            body=message.body,
            deadline=message.deadline,
            wanted=message.wanted,
            list_size=kind.list_size_of(token=message.token, authorization=authorization),
        )
        environment.pool.submit(exchange)
        end = await exchange.ended
        if not isinstance(end, Answer):
            return end
        result = judge(end, self._wall())
        if exchange.carrier is not None:
            if isinstance(result, Temporary):
                exchange.carrier.distrust()
            if result.reason in LEAVING:
                exchange.carrier.leave()
        return result

    def _authorization(self, token: ProviderToken) -> bytes:
        """The encoded header of a provider token; encoded once."""
        if self._encoded is None or self._encoded[0] is not token:
            self._encoded = (token, authorization_header(token.text))
        return self._encoded[1]

    def _make_environments(self) -> dict[str, Environment]:
        settings = self._settings
        urls = {"production": settings.production_url, "sandbox": settings.sandbox_url}
        return {name: self._make_environment(name, url) for name, url in urls.items()}

    def _make_environment(self, name: str, url: str) -> Environment:
        settings = self._settings
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or HTTPS
        creator = settings.tls(host)

        def endpoint() -> IStreamClientEndpoint:
            tcp: IStreamClientEndpoint = wrapClientTLS(creator, self._endpoint(host, port))
            return tcp

        pool = Pool(
            name=f"{settings.app} {name}",
            clock=self._clock,
            endpoint=endpoint,
            size=settings.connections,
        )
        topic = settings.topic
        return Environment(
            pool,
            RequestKind.of(authority=parts.netloc, topic=topic, push_type="voip"),
            RequestKind.of(
                authority=parts.netloc, topic=topic.removesuffix(".voip"), push_type="alert"
            ),
        )


def _message(push: Push, to_epoch_s: float) -> Message | None:
    """
    None when there is no token to send a notice to.

    :param to_epoch_s: what makes a deadline epoch seconds.
    """
    device = push.device
    expiration = push.deadline + to_epoch_s
    if isinstance(push, CallPush):
        body = apple_call_payload(push)
        return Message(True, device.token, body, expiration, push.deadline, push.wanted)
    if not device.remote_notification_token:
        return None
    expiration += NOTICE_LIFE_S
    body = apple_notice_payload(push)
    token = device.remote_notification_token
    return Message(False, token, body, expiration, push.deadline, always_wanted)
