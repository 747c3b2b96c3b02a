"""
Pushes of one app through Apple.

The one invariant: one ``send`` is one request to Apple, unless Apple refused it for a reason
that a second one can fix: a provider token that expired, or was refused although it worked
before; a connection that idled too long; a device of the other environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Protocol
from urllib.parse import urlsplit

import attrs
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from middlewared.background import Background
from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.push.apns.apns_payload import apple_call_payload, apple_notice_payload
from middlewared.push.apns.apple_credentials import Credentials, KeyCredentials
from middlewared.push.apns.mass_refusal import MassRefusal
from middlewared.push.apns.provider_tokens import ProviderToken, ProviderTokens
from middlewared.push.apns.push_request import (
    NOTICE_LIFE_S,
    RequestKind,
    authorization_header,
    new_id,
)
from middlewared.push.apns.reasons import (
    BAD_DEVICE_TOKEN,
    EXPIRED_PROVIDER_TOKEN,
    IDLE_TIMEOUT,
    INVALID_PROVIDER_TOKEN,
    LEAVING,
    PAYLOAD_TOO_LARGE,
    judge,
)
from middlewared.push.http2.exchange import OK, Carrier, Exchange, Response, always_wanted
from middlewared.push.http2.paths import Paths
from middlewared.push.http2.pool import Http2Pool
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
    Uncertain,
)
from middlewared.push.troubles import Troubles

OTHER_ENVIRONMENT_S = 1.5
"""
How long a push may wait to be sent to the other environment, so that a failed call ends soon.
The answer to one that was sent in time is awaited.
"""

HTTPS = 443
LEAVE_EVERY_S = 10.0
SANDBOX_OFF = TokenSuspect("sandbox-off")
"""The device registered with a sandbox token, and the sandbox is switched off."""

_AGAIN = frozenset({EXPIRED_PROVIDER_TOKEN, INVALID_PROVIDER_TOKEN, IDLE_TIMEOUT})
_TOKEN = re.compile(r"[0-9A-Fa-f]{2,200}")


class Endpoints(Protocol):
    """Where TCP connections begin."""

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint: ...


@attrs.frozen
class ApnsSettings:
    """
    The settings of one app.

    ``tls`` returns the TLS settings for a host: trusted roots, ALPN ``h2`` and, with
    certificate credentials, that certificate. ``sandbox_url`` "": no sandbox.
    ``sandbox_credentials`` None: the same as in production.
    """

    app: str
    topic: str
    credentials: Credentials
    tls: Callable[[str], IOpenSSLClientConnectionCreator] = attrs.field(repr=False, eq=False)
    production_url: str = "https://api.push.apple.com"
    sandbox_url: str = "https://api.sandbox.push.apple.com"
    connections: int = 2
    sandbox_credentials: Credentials | None = None


@attrs.define  # creating a frozen one would take three times as long
class Message:
    """
    A push in Apple's terms; ``call``: VoIP, else an alert. It is never changed.

    ``expiration`` is in epoch seconds, since Apple reads it; ``deadline`` is ours.
    """

    call: bool
    token: str = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    expiration: float
    deadline: float
    wanted: Callable[[], bool] = attrs.field(repr=False)


@attrs.define
class Environment:
    """One of Apple's two: its connections, and how requests to it begin."""

    name: str
    pool: Http2Pool
    call: RequestKind
    notice: RequestKind
    credentials: Credentials
    proven: bool = False
    """Whether Apple's last answer showed that it accepts these credentials."""

    left_at: float = -inf
    """When a connection was last left because Apple refused a provider token."""

    encoded: tuple[ProviderToken, bytes] | None = attrs.field(default=None, repr=False)
    """The present provider token as a header."""


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
        paths: Paths | None = None,
        measured: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        """
        :param tokens: shared by all apps of the process; :param paths: likewise.
        :param measured: gets environment and round trip in seconds of each PING.
        """
        self._clock = clock
        self._wall = wall
        self._endpoint = endpoint
        self._tokens = tokens
        self._settings = settings
        self._paths = paths or Paths()
        self._measured = measured
        self._troubles = Troubles(provider="Apple", app=settings.app, clock=clock)
        self._alarms = {
            call: MassRefusal(app=settings.app, kind=kind, clock=clock)
            for call, kind in ((True, "calls"), (False, "notices"))
        }
        self._environments = self._make_environments()
        self._background = Background()

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

    async def prepared(self) -> None:
        """Wait until there is a connection to production."""
        await self._environments["production"].pool.prepared()

    @property
    def problem(self) -> str:
        """Why there is no connection to production, in a few words."""
        return self._environments["production"].pool.problem

    def start(self) -> None:
        """Begin to connect to both environments."""
        for environment in self._environments.values():
            environment.pool.start()

    async def stop(self) -> None:
        """Close all connections; pushes in flight end as Temporary or Uncertain."""
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
        home = self._environments.get("sandbox" if push.device.sandbox else "production")
        if home is None:
            return SANDBOX_OFF
        result = await self._attempt(home, message)
        if result.reason == PAYLOAD_TOO_LARGE and isinstance(push, CallPush):
            # Our own limit is Apple's published one; only the caller's name can be spared.
            message = attrs.evolve(message, body=apple_call_payload(push, with_name=False))
            result = await self._attempt(home, message)
        if isinstance(result, Accepted):
            self._alarms[message.call].accepted()
        elif isinstance(result, TokenSuspect):
            return await self._suspect(message, home, result)
        elif isinstance(result, ConfigFault | Rejected):
            self._refused(home, result)
        return result

    async def _suspect(
        self, message: Message, home: Environment, result: TokenSuspect
    ) -> PushResult:
        """A suspect token may be good in the other environment; many are a fault of ours."""
        other = self._environments.get("production" if home.name == "sandbox" else "sandbox")
        if result.reason == BAD_DEVICE_TOKEN and other is not None:
            soon = min(message.deadline, self._clock.seconds() + OTHER_ENVIRONMENT_S)
            second = await self._attempt(other, message, send_by=soon)
            if isinstance(second, Accepted):
                return attrs.evolve(second, other_environment=True)
            if isinstance(second, TokenDead | Uncertain):
                return second
            if isinstance(second, ConfigFault):
                self._refused(other, second)
        if self._alarms[message.call].refused(result.reason, message.token):
            return ConfigFault(result.reason)
        return result

    def _refused(self, environment: Environment, result: ConfigFault | Rejected) -> None:
        self._troubles.refused(f"{result.reason} ({environment.name})")

    async def _attempt(
        self, environment: Environment, message: Message, send_by: float | None = None
    ) -> PushResult:
        """
        One request, and a second if the first was refused through no fault of the push.

        :param send_by: until when it may be sent; None: until its deadline.
        """
        credentials = environment.credentials
        token = None
        if isinstance(credentials, KeyCredentials):
            token = self._tokens.current(credentials)
        first = self._exchange(environment, message, token, send_by)
        result = await self._request(environment, first)
        if result.reason not in _AGAIN:
            return result
        avoided = None
        if result.reason == EXPIRED_PROVIDER_TOKEN:
            if token is None or not isinstance(credentials, KeyCredentials):
                return result
            token = self._tokens.expired(credentials, token)
            if token is None:
                return result
        elif result.reason == INVALID_PROVIDER_TOKEN and not environment.proven:
            return result
        else:
            avoided = first.carrier
        second = self._exchange(environment, message, token, send_by)
        if avoided is not None:
            self._leave_seldom(environment, avoided, result.reason)
            second.carrier = avoided
        result = await self._request(environment, second)
        if result.reason == INVALID_PROVIDER_TOKEN:
            environment.proven = False
        return result

    def _leave_seldom(self, environment: Environment, carrier: Carrier, reason: str) -> None:
        """Leave it, but rarely: Apple treats many new connections as an attack."""
        now = self._clock.seconds()
        if now >= environment.left_at + LEAVE_EVERY_S:
            environment.left_at = now
            carrier.leave(f"Apple said {reason}")

    def _exchange(
        self,
        environment: Environment,
        message: Message,
        token: ProviderToken | None,
        send_by: float | None,
    ) -> Exchange:
        """A request with its own apns-id."""
        kind = environment.call if message.call else environment.notice
        authorization = b"" if token is None else _authorization(environment, token)
        push_id = new_id()
        exchange = Exchange(
            block=kind.block(
                token=message.token,
                authorization=authorization,
                expiration=message.expiration,
                push_id=push_id,
            ),
            body=message.body,
            deadline=message.deadline,
            wanted=message.wanted,
            list_size=kind.list_size_of(token=message.token, authorization=authorization),
            push_id=push_id,
        )
        if send_by is not None:
            exchange.send_by = send_by
        return exchange

    async def _request(self, environment: Environment, exchange: Exchange) -> PushResult:
        environment.pool.submit(exchange)
        end = await exchange.ended
        if end is OK:
            environment.proven = True
            return Accepted(None, False, exchange.push_id.decode("ascii"))
        result = judge(end, self._wall()) if isinstance(end, Response) else end
        if exchange.carrier is not None:
            if isinstance(result, Temporary | Uncertain):
                exchange.carrier.distrust()
            if result.reason in LEAVING:
                exchange.carrier.leave(f"Apple said {result.reason}")
        if isinstance(result, Uncertain):
            return attrs.evolve(result, provider_id=exchange.push_id.decode("ascii"))
        return result

    def _make_environments(self) -> dict[str, Environment]:
        settings = self._settings
        urls = {"production": settings.production_url, "sandbox": settings.sandbox_url}
        return {name: self._make_environment(name, url) for name, url in urls.items() if url}

    def _make_environment(self, name: str, url: str) -> Environment:
        settings = self._settings
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or HTTPS
        creator = settings.tls(host)

        def endpoint() -> IStreamClientEndpoint:
            tcp: IStreamClientEndpoint = wrapClientTLS(creator, self._endpoint(host, port))
            return tcp

        pool = Http2Pool(
            name=f"{settings.app} {name}",
            clock=self._clock,
            host=f"{host}:{port}",
            endpoint=endpoint,
            size=settings.connections,
            paths=self._paths,
            measured=partial(self._measured, name),
        )
        topic = settings.topic
        own = settings.sandbox_credentials if name == "sandbox" else None
        return Environment(
            name,
            pool,
            RequestKind.of(authority=parts.netloc, topic=topic, push_type="voip"),
            RequestKind.of(
                authority=parts.netloc, topic=topic.removesuffix(".voip"), push_type="alert"
            ),
            own or settings.credentials,
        )


def _authorization(environment: Environment, token: ProviderToken) -> bytes:
    """The header of a provider token, encoded once."""
    if environment.encoded is None or environment.encoded[0] is not token:
        environment.encoded = (token, authorization_header(token.text))
    return environment.encoded[1]


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
