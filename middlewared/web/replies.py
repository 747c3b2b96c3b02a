"""
Replies to clients, and the one table from failures to refusals.

The detail of a refusal does not reveal what the API expects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus

import attrs
from twisted.internet.defer import CancelledError
from twisted.web.http import RESPONSES, datetimeToString

from middlewared.clock import wall_clock
from middlewared.errors import (
    AccessForbidden,
    BadRequest,
    CredentialsRefused,
    MiddlewaredError,
    ServiceDown,
)
from middlewared.model import Outcome

Headers = tuple[tuple[bytes, bytes], ...]


class NotFound(MiddlewaredError):
    """No such route, device, app or call."""


class MethodNotAllowed(MiddlewaredError):
    """The route has other methods."""

    def __init__(self, allowed: tuple[bytes, ...]) -> None:
        super().__init__("method not allowed")
        self.allowed = allowed


class NetworkForbidden(MiddlewaredError):
    """The route is closed to the client's network."""


class PbxCredentialsRefused(CredentialsRefused):
    """They are those of no PBX that may be at the client's address."""


class CredentialsMissing(MiddlewaredError):
    """There is no Authorization header where one is needed."""


class TooManyRequests(MiddlewaredError):
    """The client sends too many requests; it may try again after ``retry_after_s``."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(f"too many {what}")
        self.retry_after_s = math.ceil(retry_after_s)


class BodyTooLarge(MiddlewaredError):
    """The body is longer than the limit."""


class UnsupportedMediaType(MiddlewaredError):
    """The body is in none of the formats of the API."""


@attrs.frozen
class Reply:
    """
    A whole response; ``headers`` are those beside Content-Type and Content-Length.

    ``outcome``: what it reports to a PBX; None: it is no reply to a call. ``written`` is
    called when it was written.
    """

    status: int
    body: bytes = b""
    content_type: bytes = b"application/json"
    headers: Headers = ()
    outcome: Outcome | None = None
    written: Callable[[], None] | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Refusal:
    """A failure as HTTP status and detail and, for the PBX, as X-Outcome."""

    status: int
    detail: str
    outcome: Outcome = Outcome.MALFORMED
    headers: Headers = ()


def refusal_of(error: BaseException) -> Refusal:
    """The row of the table for ``error``; an unexpected failure is a 500."""
    row = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), _BUG)
    return attrs.evolve(row, headers=row.headers + _headers(error))


def status_refusal(status: int) -> Refusal:
    """The refusal of a request whose HTTP is broken, so that no route has seen it."""
    return Refusal(status, _MALFORMED if status == 400 else f"{HTTPStatus(status).phrase}.")


def json_reply(status: int, value: Mapping[str, object], headers: Headers = ()) -> Reply:
    """``value`` as a JSON document."""
    return Reply(status, json.dumps(value).encode("ascii"), headers=headers)


def json_refusal(refusal: Refusal, elapsed_ms: float) -> Reply:  # noqa: ARG001 - a FormatRefusal
    """A refusal in the format of every route but the PBX's."""
    return json_reply(refusal.status, {"detail": refusal.detail}, refusal.headers)


def retry_after(seconds: int) -> tuple[bytes, bytes]:
    """A Retry-After header (RFC 9110 section 10.2.3)."""
    return b"Retry-After", b"%d" % max(1, seconds)


def head_of(reply: Reply, *, close: bool) -> bytes:
    """Status line and headers; ``close``: it is the last reply of its connection."""
    lines = [
        b"HTTP/1.1 %d %s" % (reply.status, RESPONSES.get(reply.status, b"Refused")),
        _date_header(int(wall_clock())),
        b"Content-Length: %d" % len(reply.body),
    ]
    if reply.body:
        lines.append(b"Content-Type: " + reply.content_type)
    lines += [name + b": " + value for name, value in reply.headers]
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


@lru_cache(maxsize=2)
def _date_header(second: int) -> bytes:
    """For all replies of a second (RFC 9110 section 6.6.1)."""
    date: bytes = datetimeToString(second)
    return b"Date: " + date


def _headers(error: BaseException) -> Headers:
    if isinstance(error, MethodNotAllowed):
        return ((b"Allow", b", ".join(error.allowed)),)
    if isinstance(error, ServiceDown | TooManyRequests):
        return (retry_after(error.retry_after_s),)
    return ()


_MALFORMED = "Malformed request."
_UNAVAILABLE = "Service unavailable."
_CHALLENGE = ((b"WWW-Authenticate", b'Basic realm="middlewared"'),)
_BUG = Refusal(500, "Internal error.", Outcome.SERVICE_DOWN)

_TABLE: Mapping[type, Refusal] = {
    NotFound: Refusal(404, "Not found.", Outcome.FORBIDDEN),
    MethodNotAllowed: Refusal(405, "Method not allowed."),
    NetworkForbidden: Refusal(403, "Forbidden.", Outcome.FORBIDDEN),
    CredentialsMissing: Refusal(401, "Credentials are needed.", Outcome.FORBIDDEN, _CHALLENGE),
    CredentialsRefused: Refusal(401, "Credentials were refused.", Outcome.FORBIDDEN, _CHALLENGE),
    TooManyRequests: Refusal(429, "Too many requests.", Outcome.FORBIDDEN),
    BodyTooLarge: Refusal(413, "Request is too large."),
    UnsupportedMediaType: Refusal(415, "Unsupported media type."),
    BadRequest: Refusal(400, _MALFORMED),
    AccessForbidden: Refusal(403, "Forbidden.", Outcome.FORBIDDEN),
    ServiceDown: Refusal(503, _UNAVAILABLE, Outcome.SERVICE_DOWN),
    # Requests that still run when the daemon stops are cancelled; another daemon may serve them.
    CancelledError: Refusal(503, _UNAVAILABLE, Outcome.DRAINING, (retry_after(1),)),
}
