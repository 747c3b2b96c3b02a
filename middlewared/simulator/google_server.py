"""
Simulator, Google: OAuth, FCM HTTP v1 and both legacy addresses on one server.

Over TLS it speaks HTTP/2 or HTTP/1.1, as the client offers, and over plain TCP HTTP/1.1.

A push is validated before its script runs; only a valid push is recorded
and can reach a phone.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from email.utils import formatdate
from typing import Any

import attrs
from twisted.internet.protocol import Factory, Protocol

from middlewared.clock import wall_clock
from middlewared.simulator.certificates import IssuedServiceAccount
from middlewared.simulator.google_errors import (
    bare_error,
    fcm_error,
    invalid_token,
    legacy_error,
    legacy_success,
    legacy_text,
)
from middlewared.simulator.google_http2 import (
    GoogleConnection,
    GoogleOffice,
    Habits,
    ProtocolChoice,
)
from middlewared.simulator.google_oauth import GrantRefused, TokenEndpoint
from middlewared.simulator.google_rules import validate_legacy, validate_v1
from middlewared.simulator.http1_server import HttpReply, HttpServer, HttpStep, Received, json_reply
from middlewared.simulator.http2.greeter import Greeter
from middlewared.simulator.listening import ServerTLS
from middlewared.simulator.record import GooglePush, Record
from middlewared.simulator.scripts import Delay, Deliver, Scripts

_SEND = re.compile(r"/v1/projects/([^/]+)/messages:send")
_LEGACY = {"/fcm/send": "fcm", "/gcm/send": "gcm"}
# As Google's answers have them.
_STANDING = (
    ("vary", "Origin"),
    ("vary", "X-Origin"),
    ("vary", "Referer"),
    ("server", "scaffolding on HTTPServer2"),
    ("x-xss-protection", "0"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-content-type-options", "nosniff"),
    ("alt-svc", 'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000'),
)


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class GoogleServer(HttpServer):
    """
    Google, as far as pushes need it.

    ``scripts`` orders faults by push token or for the next pushes, ``oauth_scripts`` for
    token requests (its key is the account's e-mail address); ``google_errors`` makes the
    replies. ``oauth`` trusts accounts and issues access tokens. ``record`` has what was
    received. ``connections`` are the open HTTP/2 connections, which can be tampered with
    while they live; ``protocols`` counts the TLS handshakes by what they agreed on, "h2" or
    "http/1.1". ``habits`` are those of connections to come; those in ``next_habits`` come
    first, one connection each.

    :param api_keys: the server keys that the legacy addresses accept.
    :param tokens: the push tokens that exist; None: any.
    :param listener: notified of each push that a phone gets.
    :param http2: False: HTTP/1.1 is all that it chooses in ALPN.
    :param alpn: False: it ignores the client's ALPN, and speaks HTTP/1.1.
    """

    _api_keys: Collection[str] = ()
    tokens: Collection[str] | None = None
    _listener: Callable[[GooglePush], None] | None = None
    _keep: int = 10_000
    habits: Habits = attrs.field(factory=Habits)
    http2: bool = True
    alpn: bool = True
    next_habits: deque[Habits] = attrs.field(factory=deque, init=False)
    connections: set[GoogleConnection] = attrs.field(factory=set, init=False)
    protocols: Counter[str] = attrs.field(factory=Counter, init=False)
    scripts: Scripts[HttpStep] = attrs.field(factory=Scripts, init=False)
    oauth_scripts: Scripts[HttpStep] = attrs.field(factory=Scripts, init=False)
    oauth: TokenEndpoint = attrs.field(factory=TokenEndpoint, init=False)
    record: Record[GooglePush] = attrs.field(init=False)
    _fields: tuple[tuple[str, str], ...] = attrs.field(default=(), init=False)
    _fields_second: int = attrs.field(default=0, init=False)

    @record.default
    def _new_record(self) -> Record[GooglePush]:
        return Record(listener=self._listener, keep=self._keep)

    @property
    def token_uri(self) -> str:
        """Address of the token endpoint, for service accounts."""
        return f"{self.url}/token"

    def trust(self, account: IssuedServiceAccount) -> None:
        """Accept assertions of ``account``, whose token_uri must be ours."""
        self.oauth.trust(account)

    def secure(self, tls: ServerTLS, site: Factory[Any]) -> Factory[Any]:
        """Speak HTTP/2 or HTTP/1.1, as ALPN decides."""
        if self.alpn:
            tls.choose_protocol(("h2", "http/1.1") if self.http2 else ("http/1.1",))
        office = GoogleOffice(
            clock=self._reactor,
            record=self.record,
            lost=self._forget,
            plan=self.begin,
            standing_fields=self.standing_fields,
        )

        def connect(habits: Habits) -> Protocol:
            speak: dict[str, Callable[[], Any]] = {
                "h2": lambda: self._connect(office, habits),
                "http/1.1": lambda: site.buildProtocol(None),
            }
            return ProtocolChoice(speak=speak, agreed=self.protocols, record=self.record)

        return Greeter(tls, self._next_habits, connect)

    def _connect(self, office: GoogleOffice, habits: Habits) -> GoogleConnection:
        self.record.connection_count += 1
        connection = GoogleConnection(self.record.connection_count, office, habits)
        self.connections.add(connection)
        return connection

    def _next_habits(self) -> Habits:
        return self.next_habits.popleft() if self.next_habits else self.habits

    def _forget(self, connection: Protocol) -> None:
        self.connections.discard(connection)

    def standing_fields(self) -> Sequence[tuple[str, str]]:
        """Give Google's usual header fields, with the date of this second."""
        now = int(wall_clock())
        if now != self._fields_second:
            self._fields_second = now
            self._fields = (*_STANDING, ("date", formatdate(now, usegmt=True)))
        return self._fields

    def plan(self, received: Received) -> Iterator[HttpStep]:
        """Validate the request, play its script, then serve it."""
        send = _SEND.fullmatch(received.path)
        try:
            if received.path == "/token":
                yield from self._plan_token(received)
            elif send is not None:
                push = self._check_v1(received, send[1])
                yield from self._limit(self._plan_push(push, send[1]), received.received_at)
            elif received.path in _LEGACY:
                yield from self._plan_push(self._check_legacy(received))
            else:
                yield legacy_text(404, "Not found")
        except GrantRefused as refused:
            self.record.refused.append(refused.reply.body.decode())
            yield refused.reply

    def _plan_token(self, received: Received) -> Iterator[HttpStep]:
        account = self.oauth.account_of(received)
        yield from self.oauth_scripts.take(account.client_email)
        yield self.oauth.issue(account)

    def _limit(self, steps: Iterator[HttpStep], since: float) -> Iterator[HttpStep]:
        """Answer 500 when the delays among ``steps`` exceed the limit."""
        for step in steps:
            limit = self.habits.answer_limit_s
            if isinstance(step, Delay) and limit is not None:
                left = since + limit - self._reactor.seconds()
                if step.seconds > left:
                    yield Delay(max(0.0, left))
                    yield fcm_error("INTERNAL", message="Internal error encountered.")
                    return
            yield step

    def _plan_push(self, push: GooglePush, project_id: str = "") -> Iterator[HttpStep]:
        self.record.receive(push)
        delivered = push.dry
        for step in self.scripts.take(push.token):
            if isinstance(step, Deliver) and not push.dry:
                delivered = True
                self.record.deliver(push)
            elif _is_success(step) and not delivered:
                self.record.deliver(push)
            yield step
        if not delivered:
            self.record.deliver(push)
        message_id = f"0:{self.record.delivered_count:020d}%simulated"
        if project_id:
            yield json_reply(200, {"name": f"projects/{project_id}/messages/{message_id}"})
        else:
            yield legacy_success(message_id)

    def _check_v1(self, received: Received, project_id: str) -> GooglePush:
        if received.method != "POST":
            raise GrantRefused(legacy_text(404, "Not found"))
        account = self.oauth.check(received.headers.get("authorization", ""))
        if account is None:
            text = "Request had invalid authentication credentials."
            raise GrantRefused(bare_error(401, "UNAUTHENTICATED", text))
        if not self.oauth.knows_project(project_id):
            raise GrantRefused(bare_error(404, "NOT_FOUND", "Requested entity was not found."))
        if account.project_id != project_id:
            raise GrantRefused(bare_error(403, "PERMISSION_DENIED", "Permission denied."))
        if not _is_json(received):
            raise GrantRefused(bare_error(400, "INVALID_ARGUMENT", "Not JSON."))
        push = validate_v1(received)
        if self._is_unknown(push):
            raise GrantRefused(invalid_token())
        return push

    def _check_legacy(self, received: Received) -> GooglePush:
        if received.method != "POST":
            raise GrantRefused(legacy_text(405))
        scheme, _, key = received.headers.get("authorization", "").partition("=")
        if scheme != "key" or key not in self._api_keys:
            raise GrantRefused(legacy_text(401, "INVALID_KEY"))
        if not _is_json(received):
            raise GrantRefused(legacy_text(400, "Content-Type must be application/json"))
        push = validate_legacy(_LEGACY[received.path], received)
        if self._is_unknown(push):
            raise GrantRefused(legacy_error("InvalidRegistration"))
        return push

    def _is_unknown(self, push: GooglePush) -> bool:
        return self.tokens is not None and push.token not in self.tokens


def _is_json(received: Received) -> bool:
    return received.headers.get("content-type", "").startswith("application/json")


def _is_success(step: HttpStep) -> bool:
    """Whether a scripted reply means that the phone got the push (a canonical id)."""
    return isinstance(step, HttpReply) and b'"success": 1' in step.body
