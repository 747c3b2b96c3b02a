"""
Calls and events as JSON, the same in the console and in the commands.

Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from middlewared.clock import iso_time
from middlewared.history.interface import DeviceEvent, KeptCall
from middlewared.model import Device
from middlewared.quoting import fingerprint

_MOST_DIGITS = 18


def call_json(call: KeptCall) -> dict[str, Any]:
    """A call with its facts and its verdict."""
    record = call.record
    return {
        "unique_key": record.unique_key,
        "call_id": record.call_id,
        "sip_user_id": account_json(record.sip_user_id),
        "app": record.app,
        "platform": record.platform,
        "daemon": call.daemon,
        "pbx": record.pbx,
        "start": iso_time(record.start),
        "outcome": record.outcome,
        "verdict": call.verdict,
        "phonenumber": record.phonenumber,
        "caller_id": record.caller_id,
        "steps": [{"step": s.step, "milliseconds": s.milliseconds} for s in record.steps],
        "pushes": [
            {
                "attempt": push.attempt,
                "time": iso_time(push.time),
                "verdict": push.verdict,
                "reason": push.reason,
                "milliseconds": push.milliseconds,
                "uncertain": push.uncertain,
                "provider_id": push.provider_id,
            }
            for push in record.pushes
        ],
        "answers": [
            {
                "time": iso_time(answer.time),
                "available": answer.available,
                "decided": answer.decided,
                "late_milliseconds": answer.late_milliseconds,
            }
            for answer in call.answers
        ],
        "joined": [{"time": iso_time(time)} for time in call.joined],
        # An app cannot replace the time and the kind by fields of those names.
        "reports": [
            {**report.fields, "time": iso_time(report.time), "kind": report.kind}
            for report in call.reports
        ],
    }


def event_json(event: DeviceEvent) -> dict[str, Any]:
    """An event of a device."""
    return {
        "time": iso_time(event.time),
        "event": event.event,
        "why": event.why,
        "reason": event.reason,
        "platform": event.platform,
        "app": event.app,
        "token": event.token,
    }


def device_json(
    sip_user_id: str,
    device: Device | None,
    events: Iterable[DeviceEvent],
    last_answered: float | None,
) -> dict[str, Any]:
    """
    What is known of the device of an account; None: it has none.

    :param last_answered: of the account; used when it has no device.
    """
    answered = last_answered if device is None else device.last_answered
    return {
        "sip_user_id": account_json(sip_user_id),
        "device": None
        if device is None
        else {
            "platform": device.platform.value,
            "app": device.app,
            "name": device.name,
            "token": fingerprint(device.token),
            "registered_at": iso_time(device.registered_at),
        },
        "events": [event_json(event) for event in events],
        "silent_streak": 0 if device is None else device.silent_streak,
        "last_answered": None if answered is None else iso_time(answered),
    }


def account_json(sip_user_id: str) -> int | str:
    """An account as the API takes it: a number, unless it is another text."""
    numeric = sip_user_id.isascii() and sip_user_id.isdigit() and len(sip_user_id) <= _MOST_DIGITS
    return int(sip_user_id) if numeric and str(int(sip_user_id)) == sip_user_id else sip_user_id
