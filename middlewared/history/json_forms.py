"""
Calls and events as JSON, the same in the console and in the commands.

Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from middlewared.clock import iso_time
from middlewared.history.interface import DeviceEvent, KeptCall
from middlewared.model import Device
from middlewared.quoting import fingerprint

_MOST_DIGITS = 18


@attrs.frozen(kw_only=True)
class JsonForms:
    """
    Calls and devices of one installation as JSON.

    :ivar text_accounts: whether its accounts are texts, which may consist of digits alone.
    """

    text_accounts: bool

    def call(self, call: KeptCall) -> dict[str, Any]:
        """A call with its facts and its verdict."""
        record = call.record
        return {
            "unique_key": record.unique_key,
            "call_id": record.call_id,
            "sip_user_id": self.account(record.sip_user_id),
            "app": record.app,
            "platform": record.platform,
            "daemon": call.daemon,
            "pbx": record.pbx,
            "start": iso_time(record.start),
            "outcome": record.outcome,
            "verdict": call.verdict,
            "phonenumber": record.phonenumber,
            "caller_id": record.caller_id,
            "steps": [{"step": step, "milliseconds": ms} for step, ms in record.step_times],
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

    def device(
        self,
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
            "sip_user_id": self.account(sip_user_id),
            "device": None
            if device is None
            else {
                "platform": device.platform.value,
                "app": device.app,
                "name": device.name,
                "token": fingerprint(device.token),
                "registered_at": iso_time(device.registered_at),
            },
            "events": [_event_json(event) for event in events],
            "silent_streak": 0 if device is None else device.silent_streak,
            "last_answered": None if answered is None else iso_time(answered),
        }

    def account(self, sip_user_id: str) -> int | str:
        """An account as the API takes it: a number, or a text where accounts are texts."""
        if self.text_accounts or not (sip_user_id.isascii() and sip_user_id.isdigit()):
            return sip_user_id
        numeric = len(sip_user_id) <= _MOST_DIGITS and str(int(sip_user_id)) == sip_user_id
        return int(sip_user_id) if numeric else sip_user_id


def _event_json(event: DeviceEvent) -> dict[str, Any]:
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
