"""
What Apple's responses mean: the one table of its reasons.

Only "dead" changes stored data, so only the reasons that Apple documents for dead tokens are.
Source: Apple, "Handling notification response errors from APNs".
"""

from __future__ import annotations

import json
from typing import Any

from middlewared.push.http2.exchange import Response
from middlewared.push.interface import (
    Accepted,
    ConfigFault,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)
from middlewared.push.retry_after import retry_after_s

BAD_DEVICE_TOKEN = "BadDeviceToken"
EXPIRED_PROVIDER_TOKEN = "ExpiredProviderToken"
PAYLOAD_TOO_LARGE = "PayloadTooLarge"
INVALID_PROVIDER_TOKEN = "InvalidProviderToken"
IDLE_TIMEOUT = "IdleTimeout"
SHUTDOWN = "Shutdown"
LEAVING = frozenset({IDLE_TIMEOUT, SHUTDOWN, "BadCertificate", "BadCertificateEnvironment"})
"""After these no further push is sent over the connection."""


_RESULTS: dict[str, type[TokenDead | TokenSuspect | ConfigFault | Rejected | Temporary]] = {
    "Unregistered": TokenDead,
    "ExpiredToken": TokenDead,
    BAD_DEVICE_TOKEN: TokenSuspect,
    "DeviceTokenNotForTopic": TokenSuspect,
    "BadTopic": ConfigFault,
    "MissingTopic": ConfigFault,
    "TopicDisallowed": ConfigFault,
    "BadCertificate": ConfigFault,
    "BadCertificateEnvironment": ConfigFault,
    EXPIRED_PROVIDER_TOKEN: ConfigFault,  # after it was renewed once: our clock is wrong
    INVALID_PROVIDER_TOKEN: ConfigFault,
    "MissingProviderToken": ConfigFault,
    "UnrelatedKeyIdInToken": ConfigFault,
    "BadEnvironmentKeyInToken": ConfigFault,
    "BadEnvironmentKeyIdInToken": ConfigFault,
    "Forbidden": ConfigFault,
    "BadCollapseId": Rejected,
    "BadExpirationDate": Rejected,
    "BadMessageId": Rejected,
    "BadPriority": Rejected,
    "InvalidPushType": Rejected,
    "DuplicateHeaders": Rejected,
    "MissingDeviceToken": Rejected,
    "PayloadEmpty": Rejected,
    PAYLOAD_TOO_LARGE: Rejected,
    "BadPath": Rejected,
    "MethodNotAllowed": Rejected,
    IDLE_TIMEOUT: Temporary,
    "TooManyRequests": Temporary,
    "TooManyProviderTokenUpdates": Temporary,
    "InternalServerError": Temporary,
    "ServiceUnavailable": Temporary,
    SHUTDOWN: Temporary,
}

_AT_ONCE = frozenset({IDLE_TIMEOUT, SHUTDOWN})
"""Only this connection is affected; another one can take the push now."""

MAX_REASON = 64


ACCEPTED = Accepted()
"""The meaning of a 200, created once."""


def interpret(response: Response, now: float) -> PushResult:
    """What a response means for the push; ``now`` in epoch seconds."""
    if response.status == 200:
        return ACCEPTED
    document = _read(response.body)
    reason = _word(document.get("reason")) or f"HTTP {response.status}"
    result = _RESULTS.get(reason) or _by_status(response.status)
    if result is TokenDead:
        return TokenDead(reason, since=_seconds(document.get("timestamp")))
    if result is Temporary:
        pause_s = retry_after_s(response.header("Retry-After") or "", now)
        if pause_s is None and reason in _AT_ONCE:
            pause_s = 0.0
        return Temporary(reason, pause_s)
    return result(reason)


def goaway_fault(goaway: str) -> ConfigFault | None:
    """
    The fault that the JSON in a GOAWAY of Apple's reports; None when it reports none.

    :param goaway: the error code and the debug data, as :class:`~..http2.session.Session`
        keeps them.
    """
    reason = _word(_read(goaway[max(goaway.find("{"), 0) :]).get("reason"))
    return ConfigFault(reason) if _RESULTS.get(reason) is ConfigFault else None


def _by_status(status: int) -> type[Temporary | Rejected | ConfigFault]:
    """For reasons that Apple does not document: a 410 with one of them removes nothing."""
    if status == 429 or status >= 500:
        return Temporary
    return ConfigFault if status == 403 else Rejected


def _read(body: bytes | str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _word(value: object) -> str:
    """A reason that is safe to log: Apple's are single words; "" for anything else."""
    if isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= MAX_REASON:
        return value
    return ""


def _seconds(timestamp: object) -> float | None:
    """Apple's milliseconds as epoch seconds; None when there are none."""
    if isinstance(timestamp, int | float) and not isinstance(timestamp, bool):
        return timestamp / 1000 if 0 < timestamp < 1e15 else None
    return None
