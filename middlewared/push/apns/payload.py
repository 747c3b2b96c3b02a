"""
What an iOS app reads: the JSON of a call, and of a notice.

The one invariant: a call's payload is whole JSON of at most 5,120 bytes, unless the
operator's own URL leaves no room; only ``caller_id`` is ever shortened.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Any

from middlewared.push.interface import CallPush, NoticePush

MAX_CALL_BYTES = 5_120
"""Apple's limit for VoIP pushes (for others it is 4,096)."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def apple_call_payload(push: CallPush) -> bytes:
    """The payload of a VoIP push; the app reads the keys beside ``aps``."""
    call = push.call
    incoming = call.incoming
    fields = {
        "aps": {},
        "type": "call",
        "unique_key": call.unique_key,
        "phonenumber": incoming.phonenumber,
        "caller_id": incoming.caller_id,
        "response_api": push.response_api,
        "message_start_time": call.started_at,
        "attempt": push.attempt,
        "vg_cid": incoming.call_id or call.unique_key,
    }
    payload = _bytes(fields)
    return payload if len(payload) <= MAX_CALL_BYTES else _shortened(fields, incoming.caller_id)


def apple_notice_payload(push: NoticePush) -> bytes:
    """The payload of an alert that shows ``push.message``."""
    return _bytes({"aps": {"alert": {"body": push.message}, "sound": "default"}})


def _shortened(fields: dict[str, Any], caller_id: str) -> bytes:
    """The payload with the longest beginning of ``caller_id`` that fits."""

    def size(length: int) -> int:
        return len(_bytes({**fields, "caller_id": caller_id[:length]}))

    fitting = bisect_right(range(len(caller_id)), MAX_CALL_BYTES, key=size)
    return _bytes({**fields, "caller_id": caller_id[: max(fitting - 1, 0)]})


def _bytes(fields: dict[str, Any]) -> bytes:
    return _encode(fields).encode("utf-8", "replace")
