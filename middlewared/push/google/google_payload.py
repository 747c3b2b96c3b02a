"""
What an Android app reads: a flat map of texts.

Every value is text. Keys and values together have at most 4,096 bytes, unless the URL in
them is too long; only ``caller_id`` is ever shortened.
"""

from __future__ import annotations

from middlewared.push.interface import CallPush, NoticePush, Push
from middlewared.push.payload_template import MAX_GOOGLE_BYTES

MAX_DATA_BYTES = MAX_GOOGLE_BYTES
MAX_TIME_TO_LIVE_S = 2_419_200


def google_data(push: Push) -> dict[str, str]:
    """The ``data`` of a push, the same for FCM HTTP v1 and the legacy protocol."""
    if isinstance(push, NoticePush):
        return {"type": "message", "message": push.message}
    if push.template is not None:
        return push.template.google(push.values, push.call.incoming.caller_id)
    return _fitting(_call_data(push))


def time_to_live_s(push: Push, now: float) -> float:
    """How long Google may keep trying, at the time ``now`` of the process's own clock."""
    return min(max(push.deadline - now, 0.0), MAX_TIME_TO_LIVE_S)


def _call_data(push: CallPush) -> dict[str, str]:
    call = push.call
    return {
        "type": "call",
        "unique_key": call.unique_key,
        "phonenumber": call.incoming.phonenumber,
        "caller_id": call.incoming.caller_id,
        "response_api": push.response_api,
        # The apps delete the dot and divide by 10,000: correct only with 7 decimals.
        "message_start_time": f"{call.start_time:.7f}",
        "attempt": str(push.attempt),
        "vg_cid": call.incoming.call_id or call.unique_key,
    }


def _fitting(data: dict[str, str]) -> dict[str, str]:
    excess = sum(map(_size, data)) + sum(map(_size, data.values())) - MAX_DATA_BYTES
    if excess > 0:
        caller_id = data["caller_id"].encode("utf-8", "replace")
        keep = max(0, len(caller_id) - excess)
        data["caller_id"] = caller_id[:keep].decode("utf-8", "ignore")
    return data


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
