"""
What Apple's answers mean: the one table of its reasons.

The one invariant: only "dead" changes stored data, so only what Apple calls dead is dead.
Source: Apple, "Handling notification response errors from APNs".
"""

from __future__ import annotations

import json
from typing import Any

from middlewared.push.apns.exchange import Answer
from middlewared.push.interface import (
    Accepted,
    ConfigFault,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)

BAD_DEVICE_TOKEN = "BadDeviceToken"
EXPIRED_PROVIDER_TOKEN = "ExpiredProviderToken"
SHUTDOWN = "Shutdown"

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
    "InvalidProviderToken": ConfigFault,
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
    "IdleTimeout": Temporary,
    "TooManyRequests": Temporary,
    "TooManyProviderTokenUpdates": Temporary,
    "InternalServerError": Temporary,
    "ServiceUnavailable": Temporary,
    SHUTDOWN: Temporary,
}

_AT_ONCE = frozenset({"IdleTimeout", SHUTDOWN})
"""Only this connection is meant; another one can take the push now."""

MAX_REASON = 64
MAX_RETRY_AFTER_S = 3600.0


def is_config_fault(reason: str) -> bool:
    """Whether ``reason`` concerns every device of the app."""
    return _KINDS.get(reason) is ConfigFault


def judge(answer: Answer) -> PushResult:
    """What an answer means for the push."""
    if answer.status == 200:
        return _ACCEPTED
    said = _read(answer.body)
    reason = _word(said.get("reason")) or f"HTTP {answer.status}"
    kind = _KINDS.get(reason) or _by_status(answer.status)
    if kind is TokenDead:
        return TokenDead(reason, since=_seconds(said.get("timestamp")))
    if kind is Temporary:
        at_once = 0.0 if reason in _AT_ONCE else None
        return Temporary(reason, retry_after_s=_retry_after(answer.retry_after, at_once))
    return kind(reason)


_ACCEPTED = Accepted()


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


def _retry_after(value: str, default: float | None) -> float | None:
    """A Retry-After in seconds; Apple sends no dates."""
    if value.isascii() and value.isdigit() and len(value) <= 9:
        return min(float(value), MAX_RETRY_AFTER_S)
    return default
