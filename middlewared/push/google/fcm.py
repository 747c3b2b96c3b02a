"""
FCM HTTP v1: one message a request, with an OAuth access token.

Responses are interpreted by ``_REFUSALS`` alone; only those about the push token itself
become TokenDead.

Sources: firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode and .../projects.messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.outgoing.interface import HttpResponse, WarmHttpClient
from middlewared.push.google.error_bodies import (
    Refusal,
    as_object,
    json_object,
    message_id,
    objects,
    refusal_of,
    refused,
    word,
)
from middlewared.push.google.google_payload import google_data, time_to_live_s
from middlewared.push.google.google_provider import (
    ATTEMPT_TIMEOUT_S,
    CONTENT_TYPE,
    Attempt,
    GoogleProvider,
)
from middlewared.push.google.oauth import AccessToken, AccessTokens
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.interface import (
    Accepted,
    ConfigFault,
    Push,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)

# By FCM's error code, else by the HTTP status. Of all others, 5xx is Temporary, the rest
# Rejected. A 400 about the push token is TokenDead (``_names_token``).
_REFUSALS: Mapping[str | int, Refusal] = {
    "UNREGISTERED": TokenDead,
    "SENDER_ID_MISMATCH": TokenSuspect,
    "THIRD_PARTY_AUTH_ERROR": ConfigFault,
    "QUOTA_EXCEEDED": Temporary,
    "UNAVAILABLE": Temporary,
    "INTERNAL": Temporary,
    "INVALID_ARGUMENT": Rejected,
    "UNSPECIFIED_ERROR": Rejected,
    400: Rejected,
    401: ConfigFault,  # after a renewal of the access token: the account may not push
    403: ConfigFault,  # the API is off, or the account lacks the role
    404: ConfigFault,  # without UNREGISTERED: no such project
    408: Temporary,
    409: Temporary,  # ABORTED
    429: Temporary,
    499: Temporary,  # CANCELLED
}
Address: TypeAlias = Literal["auto", "token", "fid"]
"""How a device is addressed: by its registration token, or the id of the installation."""

_ADDRESS_FIELDS = {"message.token", "message.fid"}
_TOKEN_TEXT = re.compile(
    r"registration token is (?:not a valid|invalid)|invalid registration token", re.IGNORECASE
)


class FcmProvider(GoogleProvider):
    """Pushes for one Android app through FCM HTTP v1."""

    def __init__(
        self,
        *,
        app: str,
        account: ServiceAccount,
        url: str,
        http: WarmHttpClient,
        clock: Clock,
        address: Address = "auto",
        analytics_label: str = "",
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        wall: WallClock = wall_clock,
    ) -> None:
        """
        :param url: the base URL, ``https://fcm.googleapis.com``.
        :param analytics_label: the label under which Google's delivery reports count pushes.
        """
        project = quote(account.project_id, safe="")
        super().__init__(
            app=app,
            url=f"{url.rstrip('/')}/v1/projects/{project}/messages:send",
            http=http,
            clock=clock,
            attempt_timeout_s=attempt_timeout_s,
            wall=wall,
        )
        self._address: Address = address
        self._options = {"analytics_label": analytics_label} if analytics_label else None
        self._tokens = AccessTokens(account=account, http=http, clock=clock, wall=wall)

    @property
    def up(self) -> bool | None:
        """Whether there is a valid access token."""
        return self._tokens.up

    async def start(self) -> None:
        """Connect and fetch the first access token, so that no call has to wait for them."""
        self._tokens.start()
        self._http.keep_warm(self._url)

    async def stop(self) -> None:
        """See :meth:`~.interface.PushProvider.stop`."""
        await self._tokens.stop()
        await super().stop()

    def _can_address(self, token: str) -> bool:
        return super()._can_address(token) and bool(_addressed(token, self._address)[1])

    def _interpret(self, _: str, reply: HttpResponse, /) -> PushResult:
        return interpret(reply, self._wall())

    async def _attempt(self, attempt: Attempt) -> PushResult:
        token = await self._tokens.get()
        if not isinstance(token, AccessToken):
            return token
        reply = await self._post(attempt, token)
        if _refuses_access_token(reply) and self._tokens.discard(token):
            attempt.progress.clear()
            token = await self._tokens.get()
            if not isinstance(token, AccessToken):
                return token
            reply = await self._post(attempt, token)
        return attempt.result(reply)

    async def _post(self, attempt: Attempt, token: AccessToken) -> HttpResponse:
        headers = {"Authorization": f"Bearer {token.text}", **CONTENT_TYPE}
        return await attempt.post(self._url, headers, self._message(attempt.push))

    def _message(self, push: Push) -> bytes:
        field, value = _addressed(push.device.token, self._address)
        ttl_s = time_to_live_s(push, self._clock.seconds())
        message: dict[str, object] = {
            field: value,
            "data": google_data(push),
            "android": {"priority": "HIGH", "ttl": f"{ttl_s:.3f}s"},
        }
        if self._options is not None:
            message["fcm_options"] = self._options
        return json.dumps({"message": message}, separators=(",", ":")).encode()


def _addressed(token: str, address: Address) -> tuple[str, str]:
    """
    The field of the message that names the device, and its value.

    Since June 2026 apps may register a Firebase installation id, which has no colon; in a
    registration token it is the part before the colon.
    """
    if address == "fid":
        return "fid", token.partition(":")[0]
    return ("fid" if address == "auto" and ":" not in token else "token"), token


def interpret(reply: HttpResponse, now: float) -> PushResult:
    """What a response of FCM means for the push; ``now`` in epoch seconds."""
    document = json_object(reply)
    if reply.status == 200:
        if document.get("name") or not reply.complete:
            return Accepted(provider_id=message_id(document.get("name")))
        return Temporary("no-message-name")
    error = as_object(document.get("error"))
    code = _error_code(error)
    kind = refusal_of(_REFUSALS, code, reply.status)
    if kind is Rejected and reply.status == 400 and _names_token(error):
        kind = TokenDead
    reason = code or word(error.get("status")) or f"http-{reply.status}"
    return refused(kind, reason, reply, now)


def _error_code(error: dict[str, Any]) -> str:
    """FCM's own error code, which may be anywhere in the details; "" when there is none."""
    for detail in objects(error.get("details")):
        if str(detail.get("@type")).endswith("google.firebase.fcm.v1.FcmError"):
            return word(detail.get("errorCode"))
    return ""


def _names_token(error: dict[str, Any]) -> bool:
    """Whether a 400 is about the push token and not about the rest of our message."""
    for detail in objects(error.get("details")):
        for violation in objects(detail.get("fieldViolations")):
            # A relay that does not know message.fid refuses it for all devices.
            unknown = "Cannot find field" in str(violation.get("description"))
            if violation.get("field") in _ADDRESS_FIELDS and not unknown:
                return True
    return _TOKEN_TEXT.search(str(error.get("message"))) is not None


def _refuses_access_token(reply: HttpResponse) -> bool:
    return reply.status == 401 and not _error_code(as_object(json_object(reply).get("error")))
