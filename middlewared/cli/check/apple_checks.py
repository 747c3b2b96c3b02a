"""
Checking Apple: a connection as the daemon makes it, and a push to a token that no phone has.

No phone gets a push: the token is random, and the push expires at once.
Sources: Apple, "Sending notification requests to APNs" and "Handling notification responses
from APNs".
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import TimeoutError
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from middlewared.cli.check.check_result import CheckResult, ok, warning, wrong
from middlewared.cli.check.explanations import unreachable
from middlewared.cli.check.handshake import Handshake, explain_distrust
from middlewared.clock import wall_clock
from middlewared.config import AppleApp
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.outgoing.proxy import ProxyFailed
from middlewared.outgoing.tls import ClientTLS
from middlewared.push.apns.apple_credentials import CertificateCredentials, KeyCredentials
from middlewared.push.apns.certificate_scope import Environment
from middlewared.push.apns.provider_tokens import ProviderTokens
from middlewared.push.apns.push_request import RequestKind, authorization_header
from middlewared.push.apns.reasons import BAD_DEVICE_TOKEN, goaway_fault, interpret
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.connector import HTTPS
from middlewared.push.http2.exchange import Exchange, ExchangeResult, Response
from middlewared.push.http2.failures import (
    NOT_TRUSTED,
    WRONG_HOST,
    connect_fault,
    describe,
)
from middlewared.push.interface import Accepted, ConfigFault, Temporary, TokenDead
from middlewared.quoting import quoted
from middlewared.service.apps import LoadedApp
from middlewared.waiting import with_fair_timeout

READY_S = 5.0
"""For TLS and the first SETTINGS; the endpoint bounds the TCP connect."""

ANSWER_S = 5.0
OTHER_PORT = 2197
"""Apple's other port, for networks that keep 443 to their proxies."""

# What each reason of Apple's means and what to do; {} is filled in from the app.
_KEY_REFUSED = (
    "{key_file}, its key id and team_id do not belong together, or the key was revoked: compare"
    " key {key_id} and team {team_id} with Apple's site"
)
_ONE_ENVIRONMENT = "{key_file}: key {key_id} is not for the {environment} environment: {remedy}"
_CERTIFICATE_TOPIC = "the certificate is not for topic {topic}: set the certificate or topic"
_MEANING_WITH_KEY: Mapping[str, str] = {
    "TopicDisallowed": "topic {topic} is not one of team {team_id}, or the key is for other"
    " topics: set topic, team_id or key_file",
    "DeviceTokenNotForTopic": "topic: this key is not for {topic}: set topic",
    "BadTopic": "topic: Apple does not know {topic}: set topic",
    "MissingTopic": "topic: Apple does not know {topic}: set topic",
    "InvalidProviderToken": _KEY_REFUSED,
    "MissingProviderToken": _KEY_REFUSED,
    "UnrelatedKeyIdInToken": _KEY_REFUSED,
    "ExpiredProviderToken": "our clock is wrong: Apple accepts only tokens of the last hour",
    "BadEnvironmentKeyInToken": _ONE_ENVIRONMENT,
    "BadEnvironmentKeyIdInToken": _ONE_ENVIRONMENT,
    "Forbidden": "Apple allows no pushes with this key: check it on Apple's site",
}
_MEANING_WITH_CERTIFICATE: Mapping[str, str] = {
    "TopicDisallowed": _CERTIFICATE_TOPIC,
    "DeviceTokenNotForTopic": _CERTIFICATE_TOPIC,
    "BadTopic": _CERTIFICATE_TOPIC,
    "MissingTopic": _CERTIFICATE_TOPIC,
    "BadCertificate": "certificate: it has expired or was revoked: get a new one",
    "BadCertificateEnvironment": "certificate: it is not for the {environment} environment:"
    " {remedy}",
    "MissingProviderToken": "certificate: Apple does not see it: does a proxy intercept TLS?",
    "Forbidden": "Apple allows no pushes with this certificate: get a new one",
}


@attrs.frozen
class AppleCheck:
    """
    Checks apps with Apple.

    :param endpoints: creates connections as the daemon does.
    :param tokens: shared by all checks, since Apple limits the tokens of a key.
    """

    reactor: Any
    endpoints: TcpEndpoints
    tokens: ProviderTokens

    async def __call__(self, loaded: LoadedApp, environment: Environment) -> CheckResult:
        """Check one environment of one app."""
        app = loaded.app
        if not isinstance(app, AppleApp):
            raise TypeError("not an app of Apple's")
        url = app.sandbox_url if environment == "sandbox" else app.production_url
        check = _EnvironmentCheck(self, app, loaded, environment, url)
        return await check.result()


class _EnvironmentCheck:
    """One connection, from name resolution to the answer."""

    def __init__(
        self,
        check: AppleCheck,
        app: AppleApp,
        loaded: LoadedApp,
        environment: Environment,
        url: str,
    ) -> None:
        self._check = check
        self._app = app
        self._credentials, self._key_file, self._key_id = loaded.credentials, "key_file", app.key_id
        if environment == "sandbox" and loaded.sandbox_credentials is not None:
            self._credentials, self._key_file = loaded.sandbox_credentials, "sandbox_key_file"
            self._key_id = app.sandbox_key_id
        self._environment = environment
        self._parts = urlsplit(url)
        self._host, self._port = self._parts.hostname or "", self._parts.port or HTTPS
        own = (
            self._credentials.certificate
            if isinstance(self._credentials, CertificateCredentials)
            else None
        )
        tls = ClientTLS(trust=loaded.trust, certificate=own, protocols=[b"h2"])
        self._handshake = Handshake(tls(self._host))
        self._connection = Http2Connection(
            clock=check.reactor, on_capacity=lambda: None, on_unprocessed=self._unprocessed
        )

    @property
    def _place(self) -> str:
        return f"{self._host}:{self._port}"

    async def result(self) -> CheckResult:
        """Connect, push, close."""
        endpoint: Any = self._handshake.over(self._tcp())
        factory: Any = Factory.forProtocol(lambda: self._connection)
        factory.noisy = False
        try:
            await endpoint.connect(factory)
        except Exception as error:  # network, resolver and proxy may raise anything
            return wrong(f"{self._place}: {unreachable(error)}{self._advice(error)}")
        try:
            return await self._connected()
        finally:
            if not self._connection.closed.called:
                self._connection.abort("checked")
                await self._connection.closed

    async def _connected(self) -> CheckResult:
        connection, clock = self._connection, self._check.reactor
        try:
            await with_fair_timeout(connection.ready, READY_S, clock)
        except Exception as error:  # from TLS, HTTP/2, or the peer
            return wrong(f"{self._place}: {await self._no_session(error)}")
        if self._handshake.protocol != "h2":
            return wrong(f"{self._place}: {self._no_h2()}")
        exchange = self._exchange()
        if not connection.can_open:
            return wrong(f"{self._place}: accepts no push: its SETTINGS allow no streams")
        connection.send(exchange)
        try:
            end = await with_fair_timeout(exchange.ended, ANSWER_S, clock)
        except Exception:  # time is up
            return wrong(f"{self._place}: no answer to a push within {ANSWER_S:.0f} s")
        return self._answered(end)

    def _exchange(self) -> Exchange:
        """A push to a made-up token, which Apple would not store even if the token existed."""
        kind = RequestKind.of(authority=self._parts.netloc, topic=self._app.topic, push_type="voip")
        authorization = b""
        if isinstance(self._credentials, KeyCredentials):
            token = self._check.tokens.current(self._credentials)
            authorization = authorization_header(token.text)
        block = kind.block(token=secrets.token_hex(32), authorization=authorization, expiration=0)
        deadline = self._check.reactor.seconds() + ANSWER_S
        return Exchange(
            header_block=block, body=json.dumps({"aps": {}}).encode(), deadline=deadline
        )

    def _unprocessed(self, exchange: Exchange) -> None:
        exchange.end(Temporary("not processed"))

    async def _no_session(self, error: Exception) -> str:
        """Why there is no HTTP/2: TLS, ALPN, or no SETTINGS."""
        if self._handshake.finished and self._handshake.protocol != "h2":
            return self._no_h2()
        fault = connect_fault(error)
        if fault is not None and fault.reason in (NOT_TRUSTED, WRONG_HOST):
            return (
                await explain_distrust(self._tcp(), self._host, self._check.reactor) or fault.reason
            )
        if fault is not None and self._handshake.finished:
            return f"{fault.reason}: {self._credential_key}: is it Apple's, and not revoked?"
        if not self._handshake.finished:
            late = isinstance(error, TimeoutError)
            return f"no TLS: {f'nothing came within {READY_S:.0f} s' if late else describe(error)}"
        if isinstance(error, TimeoutError):
            return f"speaks TLS, but no HTTP/2 SETTINGS came within {READY_S:.0f} s"
        goaway = self._connection.session.goaway
        return f"ended before its HTTP/2 SETTINGS: {quoted(goaway or describe(error), 120)}"

    def _tcp(self) -> IStreamClientEndpoint:
        return self._check.endpoints(self._host, self._port)

    def _no_h2(self) -> str:
        chosen = self._handshake.protocol
        return (
            f"no HTTP/2 (ALPN h2): it chose {chosen or 'nothing'}, and its certificate is signed"
            f" by {self._handshake.root}: does a proxy intercept TLS? exempt Apple there"
        )

    def _answered(self, end: ExchangeResult) -> CheckResult:
        """What the answer, or its absence, reveals about the configuration."""
        if not isinstance(end, Response):
            return self._unanswered(end.reason)
        result = interpret(end, wall_clock())
        if isinstance(result, Accepted):
            return wrong(
                f"{self._place}: a push to a made-up token was accepted, which Apple never does:"
                f" what answers there? TLS root {self._handshake.root}"
            )
        if result.reason == BAD_DEVICE_TOKEN or isinstance(result, TokenDead):
            return ok(
                f"{self._place}, TLS root {self._handshake.root}, h2, made-up token refused"
                f" ({result.reason})"
            )
        if result.reason == "TooManyProviderTokenUpdates":
            return warning(
                f"{self._place}: Apple has seen too many new tokens of key {self._key_id}"
                " (TooManyProviderTokenUpdates): try again in 20 minutes"
            )
        if isinstance(result, Temporary):
            return wrong(
                f"{self._place}: Apple has a temporary problem ({result.reason}): try again in a"
                " minute"
            )
        return self._refused(result.reason)

    def _unanswered(self, reason: str) -> CheckResult:
        """The connection or stream ended: Apple may have given a reason in its GOAWAY."""
        goaway = self._connection.session.goaway
        fault = goaway_fault(goaway)
        if isinstance(fault, ConfigFault):
            return self._refused(fault.reason)
        detail = f": {quoted(goaway, 120)}" if goaway else ""
        return wrong(f"{self._place}: no answer to a push: {reason}{detail}")

    def _refused(self, reason: str) -> CheckResult:
        with_key = isinstance(self._credentials, KeyCredentials)
        meaning = (_MEANING_WITH_KEY if with_key else _MEANING_WITH_CERTIFICATE).get(reason)
        if meaning is None:
            return wrong(f"{self._place}: Apple refuses the push: {reason}")
        text = meaning.format(
            topic=self._app.topic,
            key_file=self._key_file,
            key_id=self._key_id,
            team_id=self._app.team_id,
            environment=self._environment,
            remedy=self._remedy,
        )
        return wrong(f"{reason}: {text}")

    @property
    def _credential_key(self) -> str:
        return self._key_file if isinstance(self._credentials, KeyCredentials) else "certificate"

    @property
    def _remedy(self) -> str:
        """What to do about credentials that are for the other environment."""
        if self._environment == "production":
            return "use one that is"
        if isinstance(self._credentials, KeyCredentials):
            return "set sandbox_key_file and sandbox_key_id, or leave sandbox_url empty"
        return "use one that is, or leave sandbox_url empty"

    def _advice(self, error: Exception) -> str:
        if self._port == OTHER_PORT or isinstance(error, ProxyFailed | DNSLookupError):
            return ""
        return (
            f": does a firewall block it? Apple also listens on port {OTHER_PORT}"
            f" ({self._environment}_url)"
        )
