"""
Simulator: how the generations of deployed apps speak to the daemon and read its pushes.

The one invariant: a generation is a value; what an app would choke on is told by
``complaint`` and nothing is repaired on its behalf.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import attrs

_SEVEN_DECIMALS = re.compile(r"\d+\.\d{7}")


@attrs.frozen
class Generation:
    """
    One generation of an app.

    ``form``: bodies are forms, else JSON. ``delete_by_query``: fields of a DELETE stand
    in the query. ``slash``: device paths end in one. ``response_path``: where answers
    go; None: response_api verbatim. ``words``: its words for not available, available.
    ``extra``: fields of a registration besides the required ones.
    """

    name: str
    platform: str
    form: bool
    complaint: Callable[[Mapping[str, Any]], str | None]
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    delete_by_query: bool = False
    slash: bool = True
    response_form: bool = True
    response_path: str | None = None
    response_has_credentials: bool = False
    response_has_account: bool = False
    words: tuple[str, str] = ("false", "true")


def complain_as_android(data: Mapping[str, Any]) -> str | None:
    """What an Android app would choke on in a call push, or None."""
    for key, value in data.items():
        if not isinstance(value, str):
            return f"{key} is no text"
    for key in ("unique_key", "phonenumber", "response_api", "vg_cid"):
        if not data.get(key):
            return f"no {key}"
    if "caller_id" not in data:
        return "no caller_id"
    if not data.get("attempt", "").isdecimal():
        return "attempt is no integer"
    # Milliseconds are found by deleting the dot and dividing by 10000.
    if not _SEVEN_DECIMALS.fullmatch(data.get("message_start_time", "")):
        return "message_start_time has not exactly 7 decimals"
    return None


def complain_as_ios(data: Mapping[str, Any]) -> str | None:
    """What an iOS app would choke on in a VoIP push, or None; iOS kills it then."""
    for key in ("unique_key", "phonenumber", "response_api", "caller_id", "vg_cid"):
        if not isinstance(data.get(key), str):
            return f"no {key}"
    try:
        uuid.UUID(data["unique_key"])
    except ValueError:
        return "unique_key is no UUID"
    if type(data.get("message_start_time")) not in (int, float):
        return "message_start_time is no number"
    if type(data.get("attempt")) is not int:
        return "attempt is no integer"
    return None


_DOUBLED_PATH = "/api/call-response/api/call-response/"
_PLAIN_PATH = "/api/call-response/"

ANDROID_3 = Generation(
    name="Android 3.0-5.3",
    platform="android",
    form=True,
    complaint=complain_as_android,
    extra={"os_version": "REL", "client_version": "9", "name": "maker product"},
    response_path=_DOUBLED_PATH,
    response_has_credentials=True,
)
ANDROID_6 = Generation(
    name="Android 5.4-6.8",
    platform="android",
    form=True,
    complaint=complain_as_android,
    extra={"os_version": "REL", "client_version": "10", "remote_logging_id": "a1b2c3"},
    response_path=_PLAIN_PATH,
    response_has_account=True,
)
GCM_3 = attrs.evolve(ANDROID_3, name="Android 3.0 over GCM", platform="gcm")
IOS_4 = Generation(
    name="iOS 4-5",
    platform="apns",
    form=False,
    complaint=complain_as_ios,
    extra={"sandbox": False, "os_version": "12.4", "client_version": "5.7"},
    response_form=False,
    response_path=_PLAIN_PATH,
    response_has_credentials=True,
    words=("False", "True"),
)
IOS_6 = attrs.evolve(
    IOS_4,
    name="iOS 6",
    extra={**IOS_4.extra, "push_profile": "once", "remote_logging_id": "a1b2c3"},
    response_has_account=True,
)
FLUTTER_ANDROID = Generation(
    name="Flutter Android 7.50",
    platform="android",
    form=False,
    complaint=complain_as_android,
    extra={"app_startup_timestamp": None, "sandbox": None, "dnd": False},
    slash=False,
)
FLUTTER_IOS = Generation(
    name="Flutter iOS 7.50",
    platform="apns",
    form=False,
    complaint=complain_as_ios,
    extra={"push_profile": "once", "sandbox": "false", "remote_notification_token": "cd" * 32},
    slash=False,
    response_form=False,
)
PIL_IOS = Generation(
    name="Phone Integration Lib iOS",
    platform="apns",
    form=True,
    complaint=complain_as_ios,
    extra={"sandbox": "false", "push_profile": "once"},
    delete_by_query=True,
)
GENERATIONS = (ANDROID_3, ANDROID_6, GCM_3, IOS_4, IOS_6, FLUTTER_ANDROID, FLUTTER_IOS, PIL_IOS)
