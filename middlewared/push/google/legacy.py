"""
The legacy protocol of FCM and GCM, for relays that still speak it.

Answers are classified by ``_VERDICTS`` alone; only those about the push token itself become
TokenDead.

Google removed its own servers for it in 2019 (GCM) and 2024 (FCM); the configuration
warns when an app still points at them. Source: firebase.google.com/docs/cloud-messaging/
http-server-ref.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TypeAlias

from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.model import GOOGLE_TOKEN
from middlewared.outgoing.interface import HttpResponse, WarmHttpClient
from middlewared.push.google.attempt import ATTEMPT_TIMEOUT_S, Attempt, Attempts
from middlewared.push.google.error_bodies import (
    json_object,
    message_id,
    objects,
    retry_after_s,
    word,
)
from middlewared.push.google.google_payload import google_data
from middlewared.push.interface import (
    MALFORMED_TOKEN,
    Accepted,
    ConfigFault,
    Push,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)

LONGEST_TTL_S = 2_419_200
_Refusal: TypeAlias = type[TokenDead | TokenSuspect | ConfigFault | Rejected | Temporary]

# By the word of the one result, else by the HTTP status. What is not here: 5xx is
# Temporary, the rest Rejected.
_VERDICTS: Mapping[str | int, _Refusal] = {
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
    404: ConfigFault,  # a server that does not know the protocol, as Google's own
    408: Temporary,
    429: Temporary,
}
LONGEST_TOKEN = 4_096


class LegacyProvider:
    """
    Pushes for one app with a server key.

    ``http`` is this provider's own and is closed with it.
    """

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
        self._url = url
        self._headers = {
            "Authorization": f"key={api_key}",
            "Content-Type": "application/json; charset=UTF-8",
        }
        self._http = http
        self._clock = clock
        self._wall = wall
        self._attempts = Attempts(app=app, http=http, clock=clock, timeout_s=attempt_timeout_s)

    def start(self) -> None:
        """Nothing to prepare: the first push connects."""

    async def stop(self) -> None:
        """See :meth:`middlewared.push.interface.PushProvider.stop`."""
        await self._http.close()

    async def send(self, push: Push) -> PushResult:
        """See :meth:`middlewared.push.interface.PushProvider.send`."""
        if GOOGLE_TOKEN.fullmatch(push.device.token) is None:
            return MALFORMED_TOKEN
        return await self._attempts.run(
            push,
            self._attempt,
            lambda reply: verdict(reply, push.device.token, self._wall()),
        )

    def connection_states(self) -> dict[tuple[str, str], int]:
        """Connections by environment, which is always production, and state."""
        states = self._http.connection_states(self._url)
        return {("production", state): count for state, count in states.items()}

    async def _attempt(self, attempt: Attempt) -> PushResult:
        body = _message(attempt.push, self._clock.seconds())
        return attempt.verdict(await attempt.post(self._url, self._headers, body))


def fcm_send_url(base_url: str) -> str:
    """Where FCM's legacy protocol is spoken below the base URL of an ``android`` app."""
    return f"{base_url.rstrip('/')}/fcm/send"


def verdict(reply: HttpResponse, token: str, now: float) -> PushResult | None:
    """
    What an answer means for the push to ``token``, the token and the app.

    :param now: epoch seconds.
    :return: None when it depends on the body, which broke off.
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
    reason = word(result.get("error"))
    kind = _VERDICTS.get(reason) or _VERDICTS.get(reply.status)
    if kind is None:
        # A 200 without a result is a server that broke down, a word nobody documented is not.
        broken = reply.status >= 500 or (reply.status == 200 and not result.get("error"))
        kind = Temporary if broken else Rejected
    reason = reason or f"http-{reply.status}"
    if kind is Temporary:
        return Temporary(reason, retry_after_s(reply, now))
    return kind(reason)


def _canonical(value: object, token: str) -> str | None:
    """The token to store from now on, None when it is the one we have."""
    if not isinstance(value, str) or value == token or len(value) > LONGEST_TOKEN:
        return None
    return value if GOOGLE_TOKEN.fullmatch(value) else None


def _message(push: Push, now: float) -> bytes:
    left_s = min(max(push.deadline - now, 0.0), LONGEST_TTL_S)
    message = {
        "to": push.device.token,
        "data": google_data(push),
        "priority": "high",
        "time_to_live": math.ceil(left_s),
    }
    return json.dumps(message, separators=(",", ":")).encode()
