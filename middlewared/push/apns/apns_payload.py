"""
What an iOS app reads: the JSON of a call, and of a notice.

A call's payload has at most 5,120 bytes, unless the URL in it is too long; only
``caller_id`` is ever shortened.
"""

from __future__ import annotations

import json
from functools import partial
from json.encoder import encode_basestring as quoted

from middlewared.push.interface import CallPush, NoticePush
from middlewared.push.payload_template import MAX_APPLE_BYTES, fitting

MAX_CALL_BYTES = MAX_APPLE_BYTES

# A format takes a third of the time that dumping a dictionary for each push would.
_CALL = (
    '{"aps":{},"type":"call","unique_key":%s,"phonenumber":%s,"caller_id":%s,'
    '"response_api":%s,"message_start_time":%r,"attempt":%d,"vg_cid":%s}'
)


def apple_call_payload(push: CallPush, *, with_name: bool = True) -> bytes:
    """
    The payload of a VoIP push; the app reads the keys next to ``aps``.

    :param with_name: False leaves ``caller_id`` empty.
    """
    caller_id = push.call.incoming.caller_id if with_name else ""
    if push.template is not None:
        return push.template.apple(push.values, caller_id)
    return fitting(partial(_call, push), len, caller_id, at_most=MAX_CALL_BYTES)


def apple_notice_payload(push: NoticePush) -> bytes:
    """The payload of an alert that shows ``push.message``."""
    return json.dumps({"aps": {"alert": {"body": push.message}, "sound": "default"}}).encode()


def _call(push: CallPush, caller_id: str) -> bytes:
    call = push.call
    incoming = call.incoming
    text = _CALL % (
        quoted(call.unique_key),
        quoted(incoming.phonenumber),
        quoted(caller_id),
        quoted(push.response_api),
        call.start_time,
        push.attempt,
        quoted(incoming.call_id or call.unique_key),
    )
    return text.encode("utf-8", "replace")
