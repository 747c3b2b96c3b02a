"""
The legacy protocol of FCM and GCM, for relays that still speak it.

Responses are interpreted by ``_REFUSALS`` alone; only those about the push token itself
become TokenDead.

Google shut down its own servers for it in 2019 (GCM) and 2024 (FCM); the configuration
warns when an app still uses them. Source: firebase.google.com/docs/cloud-messaging/
http-server-ref.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.model import GOOGLE_TOKEN
from middlewared.outgoing.interface import HttpResponse, WarmHttpClient
from middlewared.push.google.error_bodies import (
    Refusal,
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

# By the error of the one result, else by the HTTP status. Of all others, 5xx is Temporary,
# the rest Rejected.
_REFUSALS: Mapping[str | int, Refusal] = {
    "NotRegistered": TokenDead,
    "InvalidRegistration": TokenDead,
    "MismatchSenderId": TokenSuspect,
    "InvalidPackageName": ConfigFault,
    "MissingRegistration": Rejected,
    "MessageTooBig": Rejected,
    "InvalidDataKey": Rejected,
    "InvalidTtl": Rejected,
    "InvalidParameters": Rejected,
    "Unavailable": Temporary,
    "InternalServerError": Temporary,
    "DeviceMessageRateExceeded": Temporary,
    "TopicsMessageRateExceeded": Temporary,
    400: Rejected,
    401: ConfigFault,
    403: ConfigFault,
    404: ConfigFault,  # a server without the protocol, such as Google's own
    408: Temporary,
    429: Temporary,
}
MAX_TOKEN = 4_096


class LegacyProvider(GoogleProvider):
    """Pushes for one app with a server key."""

    def __init__(
        self,
        *,
        app: str,
        api_key: str,
        url: str,
        http: WarmHttpClient,
        clock: Clock,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        wall: WallClock = wall_clock,
    ) -> None:
        """
        :param url: where to POST; for an FCM base URL see :func:`fcm_send_url`.
        """
        super().__init__(
            app=app,
            url=url,
            http=http,
            clock=clock,
            attempt_timeout_s=attempt_timeout_s,
            wall=wall,
        )
        self._headers = {"Authorization": f"key={api_key}", **CONTENT_TYPE}

    def _interpret(self, token: str, reply: HttpResponse, /) -> PushResult | None:
        return interpret(reply, token, self._wall())

    async def _attempt(self, attempt: Attempt) -> PushResult:
        body = _message(attempt.push, self._clock.seconds())
        return attempt.result(await attempt.post(self._url, self._headers, body))


def fcm_send_url(base_url: str) -> str:
    """The URL of FCM's legacy protocol for the base URL of an ``android`` app."""
    return f"{base_url.rstrip('/')}/fcm/send"


def interpret(reply: HttpResponse, token: str, now: float) -> PushResult | None:
    """
    What a response means for the push to ``token``.

    :param now: epoch seconds.
    :return: None when it depends on the body, which is incomplete.
    """
    if reply.status == 200 and not reply.complete:
        return None
    results = objects(json_object(reply).get("results"))
    result = results[0] if results else {}
    if reply.status == 200 and result.get("message_id"):
        return Accepted(
            canonical_token=_canonical(result.get("registration_id"), token),
            provider_id=message_id(result["message_id"]),
        )
    code = word(result.get("error"))
    kind = refusal_of(_REFUSALS, code, reply.status)
    if reply.status == 200 and not result.get("error"):
        kind = Temporary  # the server broke down
    return refused(kind, code or f"http-{reply.status}", reply, now)


def _canonical(value: object, token: str) -> str | None:
    """The token to store from now on; None when it is the one we have."""
    if not isinstance(value, str) or value == token or len(value) > MAX_TOKEN:
        return None
    return value if GOOGLE_TOKEN.fullmatch(value) else None


def _message(push: Push, now: float) -> bytes:
    message = {
        "to": push.device.token,
        "data": google_data(push),
        "priority": "high",
        "time_to_live": math.ceil(time_to_live_s(push, now)),
    }
    return json.dumps(message, separators=(",", ":")).encode()
