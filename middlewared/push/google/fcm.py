"""
FCM HTTP v1: one message a request, with an OAuth access token.

Responses are interpreted by ``_REFUSALS`` alone; only those about the push token itself
become TokenDead.

Sources: firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode and .../projects.messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from twisted.internet.defer import Deferred

from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.outgoing.interface import HttpResponse
from middlewared.push.google.error_bodies import (
    GoogleReply,
    Refusal,
    as_object,
    json_object,
    message_id,
    objects,
    refusal_of,
    refused,
    word,
)
from middlewared.push.google.fcm_project import FcmProject
from middlewared.push.google.google_payload import google_data, time_to_live_s
from middlewared.push.google.google_provider import (
    ATTEMPT_TIMEOUT_S,
    CONTENT_TYPE,
    Attempt,
    GoogleProvider,
)
from middlewared.push.google.oauth import AccessToken, Fault
from middlewared.push.http2.exchange import Exchange, ExchangeResult, Response
from middlewared.push.http2.failures import WITHOUT_HTTP2
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
    always_wanted,
)
from middlewared.waiting import with_fair_timeout

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
        project: FcmProject,
        clock: Clock,
        address: Address = "auto",
        analytics_label: str = "",
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        wall: WallClock = wall_clock,
        on_round_trip: Callable[[float], None] = lambda _: None,
    ) -> None:
        """
        :param project: shared with the other apps of its account.
        :param analytics_label: the label under which Google's delivery reports count pushes.
        :param on_round_trip: gets each round trip of a PING, in seconds.
        """
        super().__init__(
            app=app,
            url=project.url,
            http=project.http,
            clock=clock,
            attempt_timeout_s=attempt_timeout_s,
            wall=wall,
        )
        self.on_round_trip = on_round_trip
        self.project = project
        self._tokens = project.tokens
        self._address: Address = address
        self._options = {"analytics_label": analytics_label} if analytics_label else None

    @property
    def up(self) -> bool | None:
        """Whether there is a valid access token."""
        return self._tokens.up

    def connection_states(self) -> Mapping[tuple[str, str], int]:
        """Connections by environment, which is always production, and state."""
        states = self.project.connection_states()
        return {("production", state): count for state, count in states.items()}

    async def start(self) -> None:
        """See :meth:`~.interface.PushProvider.start`."""
        await self.project.start(self)

    async def stop(self) -> None:
        """See :meth:`~.interface.PushProvider.stop`."""
        await self.project.stop(self)

    async def send(self, push: Push) -> PushResult:
        """See :meth:`~.interface.PushProvider.send`."""
        pool = self.project.pool
        if pool is None:
            return await super().send(push)
        if not self._can_address(push.device.token):
            return MALFORMED_TOKEN
        result = await self._send_over(pool, push)
        if result == WITHOUT_HTTP2:
            self.project.use_http1()
            return await super().send(push)
        if isinstance(result, ConfigFault | Rejected):
            self._problems.refused(result.reason)
        return result

    async def _send_over(self, pool: Http2Pool, push: Push) -> PushResult:
        """Push over HTTP/2; a second time if the access token was refused."""
        token = await self._token_for(push)
        if not isinstance(token, AccessToken):
            return token
        end = await self._request(pool, push, token)
        if isinstance(end, Response) and _refuses_access_token(end) and self._tokens.discard(token):
            token = await self._token_for(push)
            if not isinstance(token, AccessToken):
                return token
            end = await self._request(pool, push, token)
        return interpret(end, self._wall()) if isinstance(end, Response) else end

    async def _token_for(self, push: Push) -> AccessToken | Fault:
        """The access token, by the push's deadline."""
        token = self._tokens.current
        if token is not None:
            return token
        left_s = push.deadline - self._clock.seconds()
        if left_s <= 0:
            return Temporary("deadline")
        getting = Deferred.fromCoroutine(self._tokens.get())
        return await with_fair_timeout(
            getting, left_s, self._clock, lambda: Temporary("deadline"), slices=1
        )

    async def _request(self, pool: Http2Pool, push: Push, token: AccessToken) -> ExchangeResult:
        header_block, header_list_size = self.project.header_block(token)
        exchange = Exchange(
            header_block=header_block,
            body=self._message(push),
            deadline=push.deadline,
            answer_s=self._attempt_timeout_s,
            wanted=push.wanted if isinstance(push, CallPush) else always_wanted,
            header_list_size=header_list_size,
        )
        pool.submit(exchange)
        end = await exchange.ended
        answered = isinstance(end, ConfigFault) or (isinstance(end, Response) and end.status < 500)
        if not answered and exchange.connection is not None:
            exchange.connection.distrust()
        return end

    def _can_address(self, token: str) -> bool:
        return super()._can_address(token) and bool(_addressed(token, self._address)[1])

    def _interpret(self, _: str, reply: GoogleReply, /) -> PushResult:
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


def interpret(reply: GoogleReply, now: float) -> PushResult:
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


def _refuses_access_token(reply: GoogleReply) -> bool:
    return reply.status == 401 and not _error_code(as_object(json_object(reply).get("error")))
