"""
Checking Google: an access token, and a message to a made-up token, to be validated only.

No phone gets a push: the token is random, and FCM is asked to validate the message
(``validate_only``, ``dry_run``), not to deliver it.
Sources: FCM's HTTP v1 reference (projects.messages.send, ErrorCode), google.rpc.ErrorInfo, and
"Using OAuth 2.0 for server to server applications".
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import attrs

from middlewared.cli.check.check_result import CheckResult, ok, warning, wrong
from middlewared.cli.check.explanations import explain_no_answer, skew
from middlewared.clock import wall_clock
from middlewared.config import AndroidApp, GcmApp
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.interface import HttpClient, HttpResponse, OutgoingFailed, TcpEndpoints
from middlewared.outgoing.tls import ClientTLS
from middlewared.push.google import fcm, legacy
from middlewared.push.google.error_bodies import as_object, json_object, objects, server_time, word
from middlewared.push.google.legacy import fcm_send_url
from middlewared.push.google.oauth import NOTABLE_SKEW_S, AccessToken, AccessTokens
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.interface import Accepted, Temporary, TokenDead
from middlewared.service.apps import LoadedApp

ANSWER_S = 5.0
_JSON = "application/json; charset=UTF-8"
_DRY = {"type": "check"}

# By FCM's error code or the HTTP status; {} is filled in from the service account.
_MEANING: Mapping[str, str] = {
    "SENDER_ID_MISMATCH": "the app belongs to another Firebase project than {project}: set the"
    " service_account of the project in the app's google-services.json",
    "THIRD_PARTY_AUTH_ERROR": "the project's own credentials for Apple or web push are invalid:"
    " check the project's settings in the Firebase console",
    "401": "service_account: Google does not accept the access token of {account}: is token_uri"
    " Google's, and the account of this project?",
    "404": "service_account: FCM does not know project {project}: use the key file of the"
    " app's project",
    "INVALID_ARGUMENT": "FCM does not understand the message: is url FCM's?",
}
_API_OFF = (
    "the Firebase Cloud Messaging API (V1) is not enabled in project {project}: enable it in the"
    " Google Cloud console and wait a few minutes"
)
_ROLE_LACKING = (
    "{account} may not send for project {project}: give it the role Firebase Cloud Messaging API"
    " Admin"
)


class RecordingClient:
    """
    Wraps another :class:`~middlewared.outgoing.interface.HttpClient` and records its answers.

    The daemon's providers reduce an answer to a result; an operator needs the details, such as
    a clock that is wrong or a service that is not enabled.

    :ivar reply: the last request's answer; None when there was none.
    :ivar failure: why there was none.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self.reply: HttpResponse | None = None
        self.failure: OutgoingFailed | None = None

    async def request(self, method: str, url: str, **more: Any) -> HttpResponse:
        """See the interface."""
        self.reply = self.failure = None
        try:
            self.reply = await self._client.request(method, url, **more)
        except OutgoingFailed as error:
            self.failure = error
            raise
        return self.reply

    async def close(self) -> None:
        """See the interface."""
        await self._client.close()


@attrs.frozen
class GoogleCheck:
    """Checks apps with Google, or with the relay at ``url``."""

    reactor: Any
    endpoints: TcpEndpoints

    async def __call__(self, loaded: LoadedApp) -> CheckResult:
        """Check one app, over its own connections, which are closed at the end."""
        app, account = loaded.app, loaded.credentials
        http = RecordingClient(
            PooledHttpClient(
                reactor=self.reactor,
                endpoints=self.endpoints,
                tls=ClientTLS(trust=loaded.trust),
            )
        )
        try:
            if isinstance(app, AndroidApp) and isinstance(account, ServiceAccount):
                return await self._v1(http, app, account)
            if isinstance(app, AndroidApp | GcmApp):
                return await self._legacy(http, app)
        finally:
            await http.close()
        raise TypeError("not an app of Google's")

    async def _v1(
        self, http: RecordingClient, app: AndroidApp, account: ServiceAccount
    ) -> CheckResult:
        tokens = AccessTokens(account=account, http=http, clock=self.reactor)
        try:
            token = await tokens.get()
        finally:
            await tokens.stop()
        if not isinstance(token, AccessToken):
            return wrong(await self._no_token(account, http, token.reason))
        project = quote(account.project_id, safe="")
        message = {
            "token": f"{secrets.token_urlsafe(16)}:APA91b{secrets.token_hex(67)}",
            "data": _DRY,
            "android": {"priority": "HIGH", "ttl": "0s"},
        }
        reply = await self._post(
            http,
            f"{app.url.rstrip('/')}/v1/projects/{project}/messages:send",
            f"Bearer {token.text}",
            {"validate_only": True, "message": message},
        )
        place = urlsplit(app.url).netloc
        if isinstance(reply, str):
            return wrong(reply)
        return _interpret_v1(reply, place, account)

    async def _legacy(self, http: RecordingClient, app: AndroidApp | GcmApp) -> CheckResult:
        url = fcm_send_url(app.url) if isinstance(app, AndroidApp) else app.url
        made_up = f"APA91b{secrets.token_hex(67)}"
        document = {"to": made_up, "dry_run": True, "data": _DRY}
        reply = await self._post(http, url, f"key={app.api_key}", document)
        place = urlsplit(url).netloc
        if isinstance(reply, str):
            return wrong(reply)
        result = legacy.interpret(reply, made_up, wall_clock())
        if isinstance(result, TokenDead):
            return ok(f"{place}, made-up registration id refused ({result.reason})")
        if isinstance(result, Accepted):
            return warning(
                f"{place}: a made-up registration id was accepted: the relay does not check them"
            )
        if reply.status in (401, 403):
            return wrong(f"{place}: api_key is refused ({reply.status}): set the sender's key")
        if reply.status == 404:
            return wrong(
                f"{place}: the legacy protocol is not served there (404), Google has shut it"
                " down: set url to a relay, or use service_account"
            )
        reason = f"http-{reply.status}" if result is None else result.reason
        if reason == "MismatchSenderId":
            return wrong(f"{place}: MismatchSenderId: api_key is not that of the app's sender")
        return wrong(f"{place}: refuses the message ({reason})")

    async def _post(
        self, http: RecordingClient, url: str, authorization: str, document: Mapping[str, object]
    ) -> HttpResponse | str:
        """The answer, or why there was none."""
        try:
            return await http.request(
                "POST",
                url,
                headers={"Authorization": authorization, "Content-Type": _JSON},
                body=json.dumps(document).encode(),
                timeout_s=ANSWER_S,
            )
        except OutgoingFailed as error:
            return await explain_no_answer(error, url, self.endpoints, self.reactor)

    async def _no_token(self, account: ServiceAccount, http: RecordingClient, reason: str) -> str:
        """Why there is no access token, and what to do."""
        if http.reply is not None:
            return _refused(account, http.reply, reason)
        failure = http.failure or OutgoingFailed(reason)
        why = await explain_no_answer(failure, account.token_uri, self.endpoints, self.reactor)
        return f"no access token: {why}"


def _refused(account: ServiceAccount, reply: HttpResponse, reason: str) -> str:
    """What the answer to a request for an access token means."""
    place = urlsplit(account.token_uri).netloc
    off_s = _server_ahead_s(reply)
    if abs(off_s) > NOTABLE_SKEW_S:
        return (
            f"no access token ({reason}): the clock of {place} is {skew(off_s)}: correct the time"
            " of this machine"
        )
    described = str(json_object(reply).get("error_description"))
    who = account.client_email
    if "disabled" in described or reason == "disabled_client":
        why = f"{who} is disabled: enable it in the Google Cloud console, IAM, Service Accounts"
    elif "account not found" in described or "deleted" in described or reason == "deleted_client":
        why = f"{who} no longer exists: create a new one, and a key for it"
    elif "Signature" in described or reason == "invalid_grant":
        why = f"service_account: the key of {who} was revoked: create a new key file"
    else:
        why = f"{place} answers {reply.status}: is it failing, or is token_uri wrong?"
    return f"no access token ({reason}): {why}"


def _interpret_v1(reply: HttpResponse, place: str, account: ServiceAccount) -> CheckResult:
    result = fcm.interpret(reply, wall_clock())
    off_s = _server_ahead_s(reply)
    warnings = [f"the clock of {place} is {skew(off_s)}"] if abs(off_s) > NOTABLE_SKEW_S else []
    if isinstance(result, TokenDead):
        return ok(
            f"{place}, project {account.project_id}, access token, made-up token refused"
            f" ({result.reason})",
            warnings,
        )
    if isinstance(result, Accepted):
        return warning(f"{place}: a made-up token was accepted: is url Google's?")
    if result.reason == "QUOTA_EXCEEDED":
        return warning(f"{place}: project {account.project_id} is over its quota (QUOTA_EXCEEDED)")
    if isinstance(result, Temporary):
        problem = f"Google has a temporary problem ({result.reason})"
        return wrong(f"{place}: {problem}: try again in a minute")
    meaning = _MEANING.get(result.reason) or _by_status(reply)
    if meaning is None:
        return wrong(f"{place}: refuses the message ({result.reason})")
    text = meaning.format(project=account.project_id, account=account.client_email)
    return wrong(f"{result.reason}: {text}")


def _by_status(reply: HttpResponse) -> str | None:
    if reply.status != 403:
        return _MEANING.get(str(reply.status))
    error = as_object(json_object(reply).get("error"))
    reasons = {word(detail.get("reason")) for detail in objects(error.get("details"))}
    text = str(error.get("message"))
    off = "SERVICE_DISABLED" in reasons or "it is disabled" in text or "has not been used" in text
    return _API_OFF if off else _ROLE_LACKING


def _server_ahead_s(reply: HttpResponse) -> float:
    """How far the server's clock is ahead of ours, by its Date header; 0 without one."""
    there = server_time(reply)
    return 0.0 if there is None else there - wall_clock()
