"""
Simulator, Google: OAuth, FCM HTTP v1 and both legacy addresses on one server.

A push is validated before its script runs; only a valid push is recorded
and can reach a phone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

import attrs

from middlewared.simulator.certificates import IssuedServiceAccount
from middlewared.simulator.google_errors import (
    bare_error,
    invalid_token,
    legacy_error,
    legacy_success,
    legacy_text,
)
from middlewared.simulator.google_oauth import GrantRefused, TokenEndpoint
from middlewared.simulator.google_rules import validate_legacy, validate_v1
from middlewared.simulator.http1_server import HttpReply, HttpServer, HttpStep, Received, json_reply
from middlewared.simulator.record import GooglePush, Record
from middlewared.simulator.scripts import Deliver, Scripts

_SEND = re.compile(r"/v1/projects/([^/]+)/messages:send")
_LEGACY = {"/fcm/send": "fcm", "/gcm/send": "gcm"}


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class GoogleServer(HttpServer):
    """
    Google, as far as pushes need it.

    ``scripts`` orders faults by push token or for the next pushes, ``oauth_scripts`` for
    token requests (its key is the account's e-mail address); ``google_errors`` makes the
    replies. ``oauth`` trusts accounts and issues access tokens. ``record`` has what was
    received.

    :param api_keys: the server keys that the legacy addresses accept.
    :param tokens: the push tokens that exist; None: any.
    :param listener: notified of each push that a phone gets.
    """

    _api_keys: Collection[str] = ()
    tokens: Collection[str] | None = None
    _listener: Callable[[GooglePush], None] | None = None
    _keep: int = 10_000
    scripts: Scripts[HttpStep] = attrs.field(factory=Scripts, init=False)
    oauth_scripts: Scripts[HttpStep] = attrs.field(factory=Scripts, init=False)
    oauth: TokenEndpoint = attrs.field(factory=TokenEndpoint, init=False)
    record: Record[GooglePush] = attrs.field(init=False)

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

    def plan(self, received: Received) -> Iterator[HttpStep]:
        """Validate the request, play its script, then serve it."""
        send = _SEND.fullmatch(received.path)
        try:
            if received.path == "/token":
                yield from self._plan_token(received)
            elif send is not None:
                yield from self._plan_push(self._check_v1(received, send[1]), send[1])
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
        _check_type(received, bare_error(400, "INVALID_ARGUMENT", "Not JSON."))
        push = validate_v1(received.body, received.received_at)
        if self._is_unknown(push):
            raise GrantRefused(invalid_token())
        return push

    def _check_legacy(self, received: Received) -> GooglePush:
        if received.method != "POST":
            raise GrantRefused(legacy_text(405))
        scheme, _, key = received.headers.get("authorization", "").partition("=")
        if scheme != "key" or key not in self._api_keys:
            raise GrantRefused(legacy_text(401, "INVALID_KEY"))
        _check_type(received, legacy_text(400, "Content-Type must be application/json"))
        push = validate_legacy(_LEGACY[received.path], received.body, received.received_at)
        if self._is_unknown(push):
            raise GrantRefused(legacy_error("InvalidRegistration"))
        return push

    def _is_unknown(self, push: GooglePush) -> bool:
        return self.tokens is not None and push.token not in self.tokens


def _check_type(received: Received, reply: HttpReply) -> None:
    if not received.headers.get("content-type", "").startswith("application/json"):
        raise GrantRefused(reply)


def _is_success(step: HttpStep) -> bool:
    """Whether a scripted reply means that the phone got the push (a canonical id)."""
    return isinstance(step, HttpReply) and b'"success": 1' in step.body
