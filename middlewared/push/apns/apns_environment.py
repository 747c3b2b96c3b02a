"""
One of Apple's two environments, as one app uses it: production or sandbox.

A push is one request, and a second one if Apple refused the first for a reason that does not
concern the push: a provider token that expired, or was refused although it worked before; a
connection that was idle too long.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from middlewared.clock import Clock, WallClock
from middlewared.push.apns.apple_connections import AppleConnections
from middlewared.push.apns.apple_credentials import Credentials, KeyCredentials
from middlewared.push.apns.provider_tokens import ProviderToken, ProviderTokens
from middlewared.push.apns.push_request import RequestKind, authorization_header, new_id
from middlewared.push.apns.reasons import (
    EXPIRED_PROVIDER_TOKEN,
    IDLE_TIMEOUT,
    INVALID_PROVIDER_TOKEN,
    LEAVING,
    interpret,
)
from middlewared.push.http2.exchange import OK, Exchange, Response
from middlewared.push.http2.pool import Http2Pool
from middlewared.push.interface import Accepted, ConfigFault, PushResult, Temporary, Uncertain

_RETRIED = frozenset({EXPIRED_PROVIDER_TOKEN, INVALID_PROVIDER_TOKEN, IDLE_TIMEOUT})


@attrs.define  # creating a frozen one would take three times as long
class ApnsMessage:
    """
    A push in Apple's terms; ``call``: VoIP, else an alert. It is never changed.

    ``expiration`` is in epoch seconds, for Apple; ``deadline`` is by our own clock.
    """

    call: bool
    token: str = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    expiration: float
    deadline: float
    wanted: Callable[[], bool] = attrs.field(repr=False)


class ApnsEnvironment:
    """
    What the requests of the app share.

    :param name: ``production`` or ``sandbox``.
    :param connections: shared by the apps of the credentials; :meth:`start` and :meth:`stop`
        begin and end their use.
    :param tokens: shared by all apps of the process.
    :param on_round_trip: gets each round trip of a PING, in seconds.
    """

    def __init__(
        self,
        *,
        name: str,
        connections: AppleConnections,
        authority: str,
        topic: str,
        credentials: Credentials,
        tokens: ProviderTokens,
        clock: Clock,
        wall: WallClock,
        on_round_trip: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.on_round_trip = on_round_trip
        self._connections = connections
        self._call = RequestKind.of(authority=authority, topic=topic, push_type="voip")
        self._notice = RequestKind.of(
            authority=authority, topic=topic.removesuffix(".voip"), push_type="alert"
        )
        self._credentials = credentials
        self._credentials_accepted = False
        """Whether Apple accepted the credentials when it last checked them."""

        self._tokens = tokens
        self._clock = clock
        self._wall = wall
        self._authorization: tuple[ProviderToken, bytes] | None = None
        """The current provider token, and its encoded header."""

    @property
    def pool(self) -> Http2Pool:
        """The connections."""
        return self._connections.pool

    def start(self, connections: int) -> None:
        """Begin to connect, unless another app has; keep at least this many connections."""
        self._connections.start(self, connections)

    async def stop(self) -> None:
        """Close the connections if no other app uses them."""
        await self._connections.stop(self)

    async def send(self, message: ApnsMessage, send_by: float | None = None) -> PushResult:
        """
        Push ``message``.

        :param send_by: until when it may be sent; None: until its deadline.
        """
        credentials, token = self._credentials, None
        if isinstance(credentials, KeyCredentials):
            token = self._tokens.current(credentials)
        first = self._exchange(message, token, send_by)
        result = await self._request(first)
        if result.reason not in _RETRIED:
            return result
        avoided = None
        if result.reason == EXPIRED_PROVIDER_TOKEN:
            if token is None or not isinstance(credentials, KeyCredentials):
                return result
            token = self._tokens.expired(credentials, token)
            if token is None:
                return result
        elif result.reason == INVALID_PROVIDER_TOKEN and not self._credentials_accepted:
            return result
        else:
            avoided = first.connection
        second = self._exchange(message, token, send_by)
        if avoided is not None:
            self._connections.leave_seldom(avoided, result.reason)
            second.connection = avoided
        result = await self._request(second)
        if result.reason == INVALID_PROVIDER_TOKEN:
            self._credentials_accepted = False
        return result

    def _exchange(
        self, message: ApnsMessage, token: ProviderToken | None, send_by: float | None
    ) -> Exchange:
        """A request with an apns-id of its own."""
        kind = self._call if message.call else self._notice
        authorization = b"" if token is None else self._authorization_of(token)
        apns_id = new_id()
        exchange = Exchange(
            header_block=kind.block(
                token=message.token,
                authorization=authorization,
                expiration=message.expiration,
                apns_id=apns_id,
            ),
            body=message.body,
            deadline=message.deadline,
            wanted=message.wanted,
            header_list_size=kind.list_size_of(token=message.token, authorization=authorization),
            request_id=apns_id,
        )
        if send_by is not None:
            exchange.send_by = send_by
        return exchange

    def _authorization_of(self, token: ProviderToken) -> bytes:
        """The header that carries a provider token, encoded once for each token."""
        if self._authorization is None or self._authorization[0] is not token:
            self._authorization = (token, authorization_header(token.text))
        return self._authorization[1]

    async def _request(self, exchange: Exchange) -> PushResult:
        self.pool.submit(exchange)
        end = await exchange.ended
        if end is OK or (isinstance(end, Response) and end.status == OK.status):
            self._credentials_accepted = True
            return Accepted(None, False, exchange.request_id.decode("ascii"))
        result = interpret(end, self._wall()) if isinstance(end, Response) else end
        if exchange.connection is not None:
            if isinstance(result, Temporary | Uncertain):
                exchange.connection.distrust()
            if result.reason in LEAVING:
                ours = isinstance(result, ConfigFault)
                exchange.connection.leave(f"Apple responded {result.reason}", ours=ours)
        if isinstance(result, Uncertain):
            return attrs.evolve(result, provider_id=exchange.request_id.decode("ascii"))
        return result
