"""
Simulator: a PBX with a call for a sleeping phone.

It knows of a call only what was on the wire.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import treq
from treq.client import HTTPClient
from twisted.internet.defer import Deferred


@attrs.frozen
class CallResult:
    """
    What the daemon answered to an incoming call; times by the reactor's clock.

    ``server_timing_ms`` has the steps of the Server-Timing header.
    """

    status: int
    body: str
    content_type: str
    outcome: str
    server_timing_ms: dict[str, float]
    placed_at: float
    answered_at: float

    @property
    def after_answer_ms(self) -> float | None:
        """
        From the phone's answer, the last step of the daemon, to its reply; None: a phone did not
        decide the call.
        """
        steps = {**self.server_timing_ms}
        total_ms = steps.pop("total", 0.0)
        return max(0.0, total_ms - sum(steps.values())) if "answer" in steps else None

    @property
    def acknowledged(self) -> bool:
        """Whether the PBX would now send the INVITE."""
        return self.status == 200 and self.body == "status=ACK"


class PBX:
    """
    Places and cancels calls and reports registrations, form-encoded as Asterisk's CURL() does.

    :param http: with the connection pool of the caller.
    :param base_url: where incoming-call is served, without a trailing slash.
    :param credentials: name and password of its section, if that has a password.
    """

    def __init__(
        self,
        *,
        http: HTTPClient,
        base_url: str,
        seconds: Callable[[], float],
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self._http = http
        self._credentials = credentials
        self._url = f"{base_url}/api/incoming-call/"
        self._registration_url = f"{base_url}/api/registration/"
        self._seconds = seconds

    def place(
        self,
        sip_user_id: int | str,
        *,
        phonenumber: str = "+31501234567",
        caller_id: str = "",
        call_id: str = "",
    ) -> Deferred[CallResult]:
        """Place a call; cancel the Deferred to hang up."""
        fields = {
            "sip_user_id": str(sip_user_id),
            "phonenumber": phonenumber,
            "caller_id": caller_id,
            "call_id": call_id,
        }
        return Deferred.fromCoroutine(self._request("POST", fields))

    def cancel(self, sip_user_id: int | str, call_id: str) -> Deferred[CallResult]:
        """The caller gave up."""
        fields = {"sip_user_id": str(sip_user_id), "call_id": call_id}
        return Deferred.fromCoroutine(self._request("DELETE", fields))

    async def registered(self, sip_user_id: int | str, **fields: str) -> tuple[int, int]:
        """An account has registered at the SIP registrar; the status, and how many it answered."""
        data = {"sip_user_id": str(sip_user_id), **fields}
        url = self._registration_url
        response = await self._http.post(url, data=data, auth=self._credentials)
        reply = await treq.json_content(response)
        return response.code, int(reply["answered"])

    async def _request(self, method: str, fields: dict[str, str]) -> CallResult:
        placed_at = self._seconds()
        response = await self._http.request(method, self._url, data=fields, auth=self._credentials)
        body = await treq.text_content(response)

        def header(name: str) -> str:
            values = response.headers.getRawHeaders(name) or [""]
            return str(values[-1])

        return CallResult(
            status=response.code,
            body=body,
            content_type=header("Content-Type"),
            outcome=header("X-Outcome"),
            server_timing_ms=_parse_server_timing(header("Server-Timing")),
            placed_at=placed_at,
            answered_at=self._seconds(),
        )


def _parse_server_timing(value: str) -> dict[str, float]:
    """Read ``name;dur=ms, ...`` (W3C Server Timing, section 2)."""
    steps: dict[str, float] = {}
    for entry in filter(None, value.split(",")):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, number = parameter.partition("=")
            if key == "dur":
                steps[name] = float(number)
    return steps
