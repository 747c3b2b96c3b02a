"""
Pushes of one app through Apple.

A token that the device's environment refuses with BadDeviceToken is tried in the other one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

import attrs
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from middlewared.background import Background
from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.push.apns.apns_environment import ApnsEnvironment, ApnsMessage
from middlewared.push.apns.apns_payload import apple_call_payload, apple_notice_payload
from middlewared.push.apns.apple_connections import AppleConnections
from middlewared.push.apns.apple_credentials import Credentials, KeyCredentials
from middlewared.push.apns.mass_refusal import MassRefusal
from middlewared.push.apns.provider_tokens import ProviderTokens
from middlewared.push.apns.push_request import NOTICE_LIFE_S
from middlewared.push.apns.reasons import BAD_DEVICE_TOKEN, PAYLOAD_TOO_LARGE
from middlewared.push.http2.pool import HostPools, Http2Pool
from middlewared.push.interface import (
    MALFORMED_TOKEN,
    Accepted,
    CallPush,
    ConfigFault,
    Push,
    PushProvider,
    PushResult,
    Rejected,
    TokenDead,
    TokenSuspect,
    Uncertain,
    always_wanted,
)
from middlewared.push.problem_log import ProblemLog
from middlewared.push.shared_connections import SharedConnections

OTHER_ENVIRONMENT_S = 1.5
"""
How long a push may wait to be sent to the other environment, so that a failed call ends soon.
Once it is sent, its response is awaited until the push's deadline.
"""

SANDBOX_OFF = TokenSuspect("sandbox-off")
"""The device has a sandbox token, and the app has no sandbox."""

_TOKEN = re.compile(r"[0-9A-Fa-f]{2,200}")


@attrs.frozen
class ApnsSettings:
    """
    The settings of one app.

    ``tls`` returns the TLS settings for a host: trusted roots, ALPN ``h2`` and, with
    certificate credentials, that certificate. ``sandbox_url`` "": no sandbox.
    ``sandbox_credentials`` None: the same as in production. ``roots`` identifies the trusted
    roots, apart from those of the platform.
    """

    app: str
    topic: str
    credentials: Credentials
    tls: Callable[[str], IOpenSSLClientConnectionCreator] = attrs.field(repr=False, eq=False)
    production_url: str
    sandbox_url: str
    connections: int
    sandbox_credentials: Credentials | None = None
    roots: str = ""


class ApnsProvider(PushProvider):
    """Sends the pushes of one iOS app."""

    def __init__(
        self,
        *,
        clock: Clock,
        endpoint: TcpEndpoints,
        tokens: ProviderTokens,
        settings: ApnsSettings,
        wall: WallClock = wall_clock,
        host_pools: HostPools | None = None,
        shared: SharedConnections[AppleConnections] | None = None,
        on_round_trip: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        """
        :param tokens: shared by all apps of the process, as are ``host_pools`` and ``shared``.
        :param on_round_trip: gets environment and round trip in seconds of each PING.
        """
        self._clock = clock
        self._wall = wall
        self._endpoint = endpoint
        self._tokens = tokens
        self._settings = settings
        self._host_pools = host_pools or HostPools()
        self._shared = shared or SharedConnections()
        self._on_round_trip = on_round_trip
        self._problems = ProblemLog(provider="Apple", app=settings.app, clock=clock)
        self._alarms = {
            call: MassRefusal(app=settings.app, kind=kind, clock=clock)
            for call, kind in ((True, "calls"), (False, "notices"))
        }
        self._environments = self._make_environments()
        self._background = Background()

    @property
    def up(self) -> bool | None:
        """Whether there is a connection to production."""
        return self._production.up

    @property
    def problem(self) -> str:
        """See :meth:`~.interface.PushProvider.problem`; concerns production."""
        return self._production.problem

    @property
    def credential_expiry(self) -> float | None:
        """When the certificate expires, in epoch seconds; None for a key."""
        return self._settings.credentials.not_after

    def connection_states(self) -> Mapping[tuple[str, str], int]:
        """See :meth:`~.interface.PushProvider.connection_states`."""
        return {
            (name, state): count
            for name, environment in self._environments.items()
            for state, count in environment.pool.states().items()
        }

    async def start(self) -> None:
        """Begin to connect to both environments."""
        for environment in self._environments.values():
            environment.start(self._settings.connections)

    async def prepared(self) -> None:
        """Wait for the first connection to production."""
        await self._production.prepared()

    async def stop(self) -> None:
        """See :meth:`~.interface.PushProvider.stop`."""
        for environment in self._environments.values():
            self._background.run(environment.stop())
        await self._background.finish()

    async def send(self, push: Push) -> PushResult:
        """See :meth:`~.interface.PushProvider.send`."""
        message = _message(push, self._wall() - self._clock.seconds())
        if message is None:
            return Rejected("no notification token")
        # It becomes part of a path, where "../" or "%2e" would have a meaning.
        if _TOKEN.fullmatch(message.token) is None:
            return MALFORMED_TOKEN
        home = self._environments.get("sandbox" if push.device.sandbox else "production")
        if home is None:
            return SANDBOX_OFF
        result = await home.send(message)
        if result.reason == PAYLOAD_TOO_LARGE and isinstance(push, CallPush):
            # We keep to the limit that Apple documents; only the caller's name is dispensable.
            message = attrs.evolve(message, body=apple_call_payload(push, with_name=False))
            result = await home.send(message)
        if isinstance(result, Accepted):
            self._alarms[message.call].accepted()
        elif isinstance(result, TokenSuspect):
            return await self._suspect(message, home, result)
        elif isinstance(result, ConfigFault | Rejected):
            self._refused(home, result)
        return result

    async def _suspect(
        self, message: ApnsMessage, home: ApnsEnvironment, result: TokenSuspect
    ) -> PushResult:
        """A suspect token may be valid in the other environment; many are a fault of ours."""
        other = self._environments.get("production" if home.name == "sandbox" else "sandbox")
        if result.reason == BAD_DEVICE_TOKEN and other is not None:
            soon = min(message.deadline, self._clock.seconds() + OTHER_ENVIRONMENT_S)
            second = await other.send(message, send_by=soon)
            if isinstance(second, Accepted):
                return attrs.evolve(second, other_environment=True)
            if isinstance(second, TokenDead | Uncertain):
                return second
            if isinstance(second, ConfigFault):
                self._refused(other, second)
        if self._alarms[message.call].refused(result.reason, message.token):
            return ConfigFault(result.reason)
        if result.reason != BAD_DEVICE_TOKEN:  # which an app's old or invented token gets, too
            self._problems.suspected(f"{result.reason} ({home.name})")
        return result

    def _refused(self, environment: ApnsEnvironment, result: ConfigFault | Rejected) -> None:
        self._problems.refused(f"{result.reason} ({environment.name})")

    @property
    def _production(self) -> Http2Pool:
        return self._environments["production"].pool

    def _make_environments(self) -> dict[str, ApnsEnvironment]:
        settings = self._settings
        urls = {"production": settings.production_url, "sandbox": settings.sandbox_url}
        return {name: self._make_environment(name, url) for name, url in urls.items() if url}

    def _make_environment(self, name: str, url: str) -> ApnsEnvironment:
        settings = self._settings
        own = settings.sandbox_credentials if name == "sandbox" else None
        credentials = own or settings.credentials
        return ApnsEnvironment(
            name=name,
            connections=self._shared.get(
                (name, url, credentials, settings.roots),
                partial(self._make_connections, name, url, credentials),
            ),
            authority=urlsplit(url).netloc,
            topic=settings.topic,
            credentials=credentials,
            tokens=self._tokens,
            clock=self._clock,
            wall=self._wall,
            on_round_trip=partial(self._on_round_trip, name),
        )

    def _make_connections(self, name: str, url: str, credentials: Credentials) -> AppleConnections:
        user = self._settings.app
        if isinstance(credentials, KeyCredentials):
            user = f"key {credentials.key_id}"
        return AppleConnections(
            name=f"{user} {name}",
            url=url,
            endpoint=self._endpoint,
            tls=self._settings.tls,
            clock=self._clock,
            host_pools=self._host_pools,
        )


def _message(push: Push, to_epoch_s: float) -> ApnsMessage | None:
    """
    The message for ``push``; None when the device has no token for notices.

    :param to_epoch_s: epoch seconds less the seconds of the process's own clock.
    """
    device = push.device
    expiration = push.deadline + to_epoch_s
    if isinstance(push, CallPush):
        body = apple_call_payload(push)
        return ApnsMessage(True, device.token, body, expiration, push.deadline, push.wanted)
    if not device.remote_notification_token:
        return None
    expiration += NOTICE_LIFE_S
    body = apple_notice_payload(push)
    token = device.remote_notification_token
    return ApnsMessage(False, token, body, expiration, push.deadline, always_wanted)
