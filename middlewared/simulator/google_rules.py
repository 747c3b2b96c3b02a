"""
Simulator, Google: validates messages of FCM HTTP v1 and of the legacy protocol.

Nothing is converted for the sender. Where Google would convert (a number
in legacy data), the push is refused, because the phone would get something else.

Source: FCM's HTTP v1 reference (Message, AndroidConfig) and the legacy HTTP reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from middlewared.simulator.google_errors import (
    bare_error,
    invalid_argument,
    invalid_fid,
    invalid_token,
    legacy_error,
    legacy_text,
)
from middlewared.simulator.google_oauth import GrantRefused
from middlewared.simulator.http1_server import Received
from middlewared.simulator.record import GooglePush

LONGEST_TTL_S = 2_419_200
LARGEST_DATA_BYTES = 4096
_TTL = re.compile(r"(\d+)(?:\.\d{1,9})?s")
_RESERVED = re.compile(r"from|message_type|(?:google|gcm).*")
_FID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
_MESSAGE_FIELDS = frozenset({"token", "fid", "data", "android", "fcm_options"})
_ANDROID_FIELDS = frozenset(
    {"priority", "ttl", "collapse_key", "restricted_package_name", "direct_boot_ok"}
)
_LEGACY_FIELDS = frozenset(
    {
        "to",
        "registration_ids",
        "data",
        "priority",
        "time_to_live",
        "collapse_key",
        "dry_run",
        "restricted_package_name",
    }
)


def validate_v1(received: Received) -> GooglePush:
    """Validate the body of ``messages:send``, or raise GrantRefused."""
    try:
        document = json.loads(received.body)
    except ValueError:
        raise GrantRefused(bare_error(400, "INVALID_ARGUMENT", "Invalid JSON payload.")) from None
    if not isinstance(document, dict) or not isinstance(document.get("message"), dict):
        raise GrantRefused(invalid_argument("message", "Message is empty"))
    message = document["message"]
    _check_object(document, frozenset({"message", "validate_only"}), "")
    _check_object(message, _MESSAGE_FIELDS, "message")
    is_fid, token = _check_address(message)
    data = _check_v1_data(message.get("data", {}))
    priority, ttl_s = _check_android(message.get("android", {}))
    label = _check_options(message.get("fcm_options", {}))
    dry = document.get("validate_only") is True
    return GooglePush(
        protocol="v1",
        token=token,
        data=data,
        priority=priority,
        ttl_s=ttl_s,
        received_at=received.received_at,
        is_fid=is_fid,
        analytics_label=label,
        dry=dry,
        connection=received.connection,
        stream_id=received.stream_id,
    )


def _check_address(message: dict[str, Any]) -> tuple[bool, str]:
    """Whether ``fid`` was used, and the value of it or ``token``; one of them must be set."""
    if "fid" not in message:
        token = message.get("token")
        if not isinstance(token, str) or not token:
            raise GrantRefused(invalid_token())
        return False, token
    if "token" in message:
        text = "oneof field 'target' is already set. Cannot set 'fid'"
        raise GrantRefused(invalid_argument("message", text))
    fid = message["fid"]
    if not isinstance(fid, str) or _FID.fullmatch(fid) is None:
        raise GrantRefused(invalid_fid())
    return True, fid


def _check_options(options: Any) -> str:
    _check_object(options, frozenset({"analytics_label"}), "message.fcm_options")
    label = options.get("analytics_label", "")
    if label != "" and (not isinstance(label, str) or _LABEL.fullmatch(label) is None):
        raise GrantRefused(invalid_argument("message.fcm_options.analytics_label", "Invalid value"))
    return str(label)


def _check_object(value: Any, known: frozenset[str], path: str) -> None:
    """Refuse ``value`` unless it is an object whose fields are all ``known``."""
    if not isinstance(value, dict):
        raise GrantRefused(invalid_argument(path, "Invalid value"))
    for name in value.keys() - known:
        text = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
        raise GrantRefused(invalid_argument(f"{path}.{name}".lstrip("."), text))


def _check_v1_data(data: Any) -> dict[str, str]:
    if not isinstance(data, dict):
        raise GrantRefused(invalid_argument("message.data", "Invalid value at 'message.data'"))
    for number, (key, value) in enumerate(data.items()):
        field = f"message.data[{number}].value"
        if not isinstance(value, str):
            text = f"Invalid value at '{field}' (TYPE_STRING), {json.dumps(value)}"
            raise GrantRefused(invalid_argument(field, text))
        if _RESERVED.fullmatch(key):
            raise GrantRefused(invalid_argument("message.data", f"Invalid data payload key: {key}"))
    if _size(data) > LARGEST_DATA_BYTES:
        raise GrantRefused(bare_error(400, "INVALID_ARGUMENT", "Android message is too big"))
    return data


def _check_android(android: Any) -> tuple[str, float | None]:
    _check_object(android, _ANDROID_FIELDS, "message.android")
    priority = android.get("priority", "NORMAL")
    if priority not in ("HIGH", "NORMAL"):
        raise GrantRefused(invalid_argument("message.android.priority", "Invalid value"))
    ttl = android.get("ttl")
    if ttl is None:
        return priority, None
    match = _TTL.fullmatch(ttl) if isinstance(ttl, str) else None
    if match is None or float(ttl[:-1]) > LONGEST_TTL_S:
        raise GrantRefused(invalid_argument("message.android.ttl", "Invalid value (Duration)"))
    return priority, float(ttl[:-1])


def validate_legacy(protocol: str, received: Received) -> GooglePush:
    """Validate the body of a legacy send to one token, or raise GrantRefused."""
    try:
        document = json.loads(received.body)
    except ValueError:
        raise GrantRefused(legacy_text(400, "JSON_PARSING_ERROR")) from None
    if not isinstance(document, dict) or not document.keys() <= _LEGACY_FIELDS:
        raise GrantRefused(legacy_text(400, "INVALID_FIELD"))
    token = document.get("to") or (document.get("registration_ids") or [""])[0]
    if not isinstance(token, str) or not token:
        raise GrantRefused(legacy_error("MissingRegistration"))
    data = _check_legacy_data(document.get("data", {}))
    ttl_s = document.get("time_to_live")
    if ttl_s is not None and not (type(ttl_s) is int and 0 <= ttl_s <= LONGEST_TTL_S):
        raise GrantRefused(legacy_error("InvalidTtl"))
    priority = document.get("priority", "normal")
    if priority not in ("high", "normal"):
        raise GrantRefused(legacy_text(400, 'Field "priority" must be "high" or "normal"'))
    dry = document.get("dry_run") is True
    return GooglePush(
        protocol=protocol,
        token=token,
        data=data,
        priority=priority,
        ttl_s=ttl_s,
        received_at=received.received_at,
        dry=dry,
        connection=received.connection,
        stream_id=received.stream_id,
    )


def _check_legacy_data(data: Any) -> dict[str, str]:
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise GrantRefused(legacy_text(400, 'Field "data" must be a map of texts'))
    if any(_RESERVED.fullmatch(key) for key in data):
        raise GrantRefused(legacy_error("InvalidDataKey"))
    if _size(data) > LARGEST_DATA_BYTES:
        raise GrantRefused(legacy_error("MessageTooBig"))
    return data


def _size(data: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in data.items())
