"""
Simulator, Google: every answer of FCM that is not a success, as replies.

Forms and statuses are those of the public pages: ErrorCode of FCM's HTTP v1 reference, and
"Downstream message error response codes" of the legacy protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from middlewared.simulator.http1_server import HttpReply, json_reply

_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
# Larger than a double holds exactly, as Google's are.
MULTICAST_ID = 9_007_199_254_740_993_999

# errorCode -> (HTTP status, gRPC status)
FCM_ERRORS: Mapping[str, tuple[int, str]] = {
    "UNSPECIFIED_ERROR": (500, "UNKNOWN"),
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT"),
    "UNREGISTERED": (404, "NOT_FOUND"),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED"),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED"),
    "UNAVAILABLE": (503, "UNAVAILABLE"),
    "INTERNAL": (500, "INTERNAL"),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED"),
}


def fcm_error(
    code: str, *, message: str = "Simulated.", retry_after: str | None = None
) -> HttpReply:
    """Make the v1 error whose FcmError detail is ``code``."""
    http_status, status = FCM_ERRORS[code]
    details = [{"@type": _FCM_ERROR, "errorCode": code}]
    return _error(http_status, status, message, details, retry_after)


def invalid_argument(field: str, message: str) -> HttpReply:
    """Make the v1 error about one field; FcmError comes after the field's detail."""
    violation = {"field": field, "description": message}
    details: list[Mapping[str, object]] = [
        {"@type": _BAD_REQUEST, "fieldViolations": [violation]},
        {"@type": _FCM_ERROR, "errorCode": "INVALID_ARGUMENT"},
    ]
    return _error(400, "INVALID_ARGUMENT", message, details)


def invalid_token() -> HttpReply:
    """Make the v1 error about a push token that never was one."""
    return invalid_argument(
        "message.token", "The registration token is not a valid FCM registration token"
    )


def invalid_fid() -> HttpReply:
    """The v1 error for an invalid Firebase installation id."""
    return invalid_argument("message.fid", "The Firebase installation ID is not valid")


def bare_error(http_status: int, status: str, message: str = "Simulated.") -> HttpReply:
    """
    Make a v1 error without an FcmError.

    401 UNAUTHENTICATED: access token; 403 PERMISSION_DENIED: role; 404 NOT_FOUND:
    project; 400 INVALID_ARGUMENT: message too big.
    """
    return _error(http_status, status, message, None)


def legacy_error(name: str, *, retry_after: str | None = None) -> HttpReply:
    """Make the legacy answer whose only result is an error."""
    return _results(0, {"error": name}, retry_after)


def legacy_success(message_id: str, canonical: str | None = None) -> HttpReply:
    """Make the legacy answer of a success, perhaps with the token to use from now on."""
    result = {"message_id": message_id}
    if canonical is not None:
        result["registration_id"] = canonical
    return _results(1, result, None)


def legacy_text(status: int, text: str = "") -> HttpReply:
    """Make a legacy answer that is no result list; 200 without text is one too."""
    return HttpReply(status, text.encode(), "text/html; charset=UTF-8")


def _results(success: int, result: dict[str, str], retry_after: str | None) -> HttpReply:
    document = {
        "multicast_id": MULTICAST_ID,
        "success": success,
        "failure": 1 - success,
        "canonical_ids": int("registration_id" in result),
        "results": [result],
    }
    return json_reply(200, document, retry_after=retry_after)


def _error(
    http_status: int,
    status: str,
    message: str,
    details: Sequence[Mapping[str, object]] | None,
    retry_after: str | None = None,
) -> HttpReply:
    error: dict[str, object] = {"code": http_status, "message": message, "status": status}
    if details is not None:
        error["details"] = details
    return json_reply(http_status, {"error": error}, retry_after=retry_after, indent=2)
