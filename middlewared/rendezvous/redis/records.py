"""
How a call is written into Redis: the names of its keys, the texts of its fields.

All keys of one call have one hash tag, which follows from its unique_key as well as from its
(sip_user_id, call_id). So each change is one script on one node, and no daemon sees half of it.
"""

from __future__ import annotations

import binascii
import json
import uuid

from middlewared.model import (
    Answer,
    Call,
    DeviceKind,
    IncomingCall,
    Outcome,
    Platform,
    Settlement,
    SipUserId,
)
from middlewared.rendezvous.late import WokenDevice

PREFIX = "middlewared:"
ALL_DAEMONS = f"{PREFIX}daemons"  # the channel that all of them listen to
SECRET = f"{PREFIX}secret"


def channel_of(daemon: str) -> str:
    """The channel a daemon listens to."""
    return f"{PREFIX}daemon:{daemon}"


def record_key(unique_key: str) -> str:
    """The name of the call's record."""
    return f"{record_prefix(unique_key)}{unique_key}"


def record_prefix(unique_key: str) -> str:
    """How the names of all records with the tag of ``unique_key`` begin."""
    return f"{PREFIX}{{{tag_of(unique_key):04x}}}:call:"


def late_key(unique_key: str) -> str:
    """The key of a call that timed out, on the node of its record."""
    return f"{PREFIX}{{{tag_of(unique_key):04x}}}:late:{unique_key}"


def account_key(sip_user_id: SipUserId) -> str:
    """The list of an account's calls; on any node, as their records are."""
    return f"{PREFIX}{{{tag_of(str(sip_user_id)):04x}}}:account:{sip_user_id}"


def identity_key(incoming: IncomingCall) -> str:
    """What makes two requests of a PBX the same call; "" when nothing does."""
    if not incoming.call_id:
        return ""
    tag = f"{tag_of(incoming.call_id):04x}"
    account = incoming.sip_user_id
    if isinstance(account, str):
        account = json.dumps(account)  # it may contain colons, as the call_id may
    return f"{PREFIX}{{{tag}}}:same:{account}:{incoming.call_id}"


def is_key(text: str) -> bool:
    """Whether ``text`` can be the unique_key of a shared call: a UUID in any form."""
    return _number(text) is not None


def tag_of(text: str) -> int:
    """16 bits of a key or a call_id; :func:`tag_of_number` for a UUID in any form."""
    number = _number(text)
    if number is None:
        return binascii.crc_hqx(text.encode("utf-8", "replace"), 0)
    return tag_of_number(number)


def tag_of_number(number: int) -> int:
    """The XOR of the eight 16-bit words of a UUID."""
    number ^= number >> 64
    number ^= number >> 32
    return (number ^ number >> 16) & 0xFFFF


def _number(text: str) -> int | None:
    try:
        return uuid.UUID(text).int
    except ValueError:
        return None


def call_text(call: Call) -> str:
    """The call as records keep it: without times of this process's own clock."""
    wait_s, incoming = call.deadline - call.started_at, call.incoming
    fields = [incoming.sip_user_id, incoming.phonenumber, incoming.caller_id, incoming.call_id]
    return json.dumps([call.unique_key, fields, call.start_time, wait_s])


def call_from(text: str, *, deadline: float) -> Call:
    """The inverse of :func:`call_text`, with times of this process's clock."""
    unique_key, incoming, start_time, wait_s = json.loads(text)
    return Call(unique_key, IncomingCall(*incoming), deadline - wait_s, deadline, start_time)


def settlement_text(settlement: Settlement) -> str:
    """The settlement as records and messages carry it."""
    answer = settlement.answer
    fields = [answer.available, answer.message_start_time, answer.id] if answer else None
    return json.dumps([settlement.outcome.value, fields])


def settlement_from(text: str, *, received_at: float) -> Settlement:
    """The inverse of :func:`settlement_text`; ``received_at`` is when the text arrived here."""
    outcome, fields = json.loads(text)
    if not fields:
        return Settlement(Outcome(outcome))
    available, message_start_time, *rest = fields  # a daemon of an older version sends no id
    answer = Answer(available, message_start_time, received_at, *rest)
    return Settlement(Outcome(outcome), answer)


def woken_text(woken: WokenDevice) -> str:
    """Account, app and platform, as records keep them."""
    return json.dumps([woken.sip_user_id, woken.kind.app, woken.kind.platform.value])


def woken_from(text: str) -> WokenDevice:
    """The inverse of :func:`woken_text`."""
    sip_user_id, app, platform = json.loads(text)
    return WokenDevice(sip_user_id, DeviceKind(app, Platform(platform)))
