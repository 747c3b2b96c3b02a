"""
What Apple's answers mean: the one table of its reasons.

Only "dead" changes stored data, so only what Apple calls dead is dead.
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
"""After these no further push goes over the connection."""


_KINDS: dict[str, type[TokenDead | TokenSuspect | ConfigFault | Rejected | Temporary]] = {
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
    "PayloadTooLarge": Rejected,
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
"""Only this connection is meant; another one can take the push now."""

MAX_REASON = 64


ACCEPTED = Accepted()
"""The meaning of a 200, created once."""


def is_config_fault(reason: str) -> bool:
    """Whether ``reason`` concerns every device of the app."""
    return _KINDS.get(reason) is ConfigFault


def judge(answer: Response, now: float) -> PushResult:
    """What an answer means for the push; ``now`` in epoch seconds."""
    if answer.status == 200:
        return ACCEPTED
    said = _read(answer.body)
    reason = _word(said.get("reason")) or f"HTTP {answer.status}"
    kind = _KINDS.get(reason) or _by_status(answer.status)
    if kind is TokenDead:
        return TokenDead(reason, since=_seconds(said.get("timestamp")))
    if kind is Temporary:
        wish_s = retry_after_s(answer.retry_after, now)
        if wish_s is None and reason in _AT_ONCE:
            wish_s = 0.0
        return Temporary(reason, wish_s)
    return kind(reason)


def _by_status(status: int) -> type[Temporary | Rejected | ConfigFault]:
    """For words that Apple does not document: a 410 without a known reason kills nothing."""
    if status == 429 or status >= 500:
        return Temporary
    return ConfigFault if status == 403 else Rejected


def _read(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _word(value: object) -> str:
    """A reason as it may be shown: Apple's are single words; "" for anything else."""
    if isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= MAX_REASON:
        return value
    return ""


def _seconds(timestamp: object) -> float | None:
    """Apple's milliseconds as epoch seconds, None when there are none."""
    if isinstance(timestamp, int | float) and not isinstance(timestamp, bool):
        return timestamp / 1000 if 0 < timestamp < 1e15 else None
    return None
