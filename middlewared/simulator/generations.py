"""
Simulator: how the generations of deployed apps use the API and read pushes.

A generation is a value; what an app cannot read has the same effect as on real phones, and
nothing is corrected for it.
"""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

_SEVEN_DECIMALS = re.compile(r"\d+\.\d{7}")
_ANDROID_HEADERS = {"User-Agent": "Vialer/6.8.4 (Android; 10, maker product)"}
_IOS_HEADERS = {"User-Agent": "Vialer/6.5.0 (iOS; 13.6, iPhone)", "Accept": "application/json"}


class Body(enum.Enum):
    """How an app writes the fields of a request."""

    FORM = "a form"
    JSON = "JSON"
    TEXTS = "JSON whose values are all text"
    QUERY = "the query string, without a body"


class AnswersTo(enum.Enum):
    """Where an app posts its call-response."""

    RESPONSE_API = "response_api as it came"
    APPENDED = "response_api with its path once more"
    ITS_HOST = "the usual path at the host of response_api"
    OWN_HOST = "the usual path at the host that was compiled in"


class Repeat(enum.Enum):
    """What an app does with a further push of a call that it is handling."""

    HANDLED = "the same as with the first"
    REFUSED = "false at once; the first push is answered when the app is ready"
    IGNORED = "nothing"


class Effect(enum.Enum):
    """What a push, or the daemon's reply, did to an app."""

    MISREAD = "a value was misread"
    IGNORED = "the push was ignored"
    CRASHED = "the app crashed"
    KILLED = "iOS killed the app, which had shown no call for a VoIP push"
    GHOST_CALL = "a call rang that was none"
    VOIP_OFF = "the app switched VoIP off"
    SIP_STOPPED = "the app stopped its SIP service: the call is lost there"
    CALL_FAILED = "the ringing call ended as failed"
    LOGGED_OUT = "the user was logged out"


@attrs.frozen
class Need:
    """What a value of a call push must be, and the effect of anything else."""

    key: str
    fits: Callable[[Any], bool]
    otherwise: Effect


@attrs.frozen
class Generation:
    """
    One generation of an app.

    ``extra``: optional fields of a registration. ``delete_slash``: whether the path of a
    DELETE ends in a slash. ``words``: the values for not available and available.
    ``answers_signed``, ``answers_for``: whether a call-response has credentials, and the
    account. ``needs``: in the order in which the app checks them. ``on_message``: effect of a
    push of type "message" whose text begins with ``message_start``. ``rings_first``: it
    shows the call before it can answer, so a phone without usable data has taken that
    push. ``first_no``: the first attempt that it may answer with "not available".
    ``on_refusal``: effect of a call-response that the daemon refused, ``on_401`` of any
    request refused so; ``on_lost_registration`` of a registration that was not confirmed.
    ``patience_s``: its time-out for a request.
    """

    name: str
    platform: str
    needs: Sequence[Need]
    repeat: Repeat
    headers: Mapping[str, str]
    extra: Mapping[str, Any]
    registers: Body = Body.FORM
    unregisters: Body = Body.FORM
    delete_slash: bool = True
    answers: Body = Body.FORM
    answers_to: AnswersTo = AnswersTo.RESPONSE_API
    answers_signed: bool = False
    answers_for: bool = False
    words: tuple[str, str] = ("false", "true")
    on_message: Effect = Effect.VOIP_OFF
    message_start: str = ""
    rings_first: bool = False
    first_no: int = 1
    on_refusal: Effect | None = None
    on_401: Effect | None = Effect.LOGGED_OUT
    on_lost_registration: Effect | None = None
    patience_s: float = 10.0

    def unmet(self, data: Mapping[str, Any]) -> list[Need]:
        """The needs that a call push does not meet, up to the first that makes the app stop."""
        unmet = []
        for need in self.needs:
            if not need.fits(data.get(need.key)):
                unmet.append(need)
                if need.otherwise is not Effect.MISREAD:
                    break
        return unmet


def _is_call(value: Any) -> bool:
    return bool(value == "call")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_any_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_integer_text(value: Any) -> bool:
    return isinstance(value, str) and value.isdecimal()


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_uuid(value: Any) -> bool:
    try:
        uuid.UUID(value)
    except (ValueError, AttributeError, TypeError):
        return False
    return True


def _has_seven_decimals(value: Any) -> bool:
    # Milliseconds are found by deleting the dot and dividing by 10000.
    return isinstance(value, str) and _SEVEN_DECIMALS.fullmatch(value) is not None


_ANY_ANDROID = (
    Need("type", _is_call, Effect.IGNORED),
    Need("unique_key", _is_text, Effect.IGNORED),
    Need("phonenumber", _is_text, Effect.IGNORED),
    Need("caller_id", _is_any_text, Effect.MISREAD),
    Need("attempt", _is_integer_text, Effect.CRASHED),
)
_START_TIME = Need("message_start_time", _has_seven_decimals, Effect.MISREAD)
_OLD_ANDROID = (*_ANY_ANDROID, Need("message_start_time", _is_text, Effect.CRASHED), _START_TIME)
_RESPONSE_API = Need("response_api", _is_text, Effect.CRASHED)
_VG_CID = Need("vg_cid", _is_text, Effect.CRASHED)
_ANY_IOS = (
    Need("caller_id", _is_any_text, Effect.MISREAD),
    Need("message_start_time", _is_number, Effect.MISREAD),
    Need("attempt", _is_integer, Effect.MISREAD),
)
_OLD_IOS = (
    Need("type", _is_call, Effect.IGNORED),
    Need("unique_key", _is_text, Effect.IGNORED),
    Need("phonenumber", _is_text, Effect.IGNORED),
    Need("response_api", _is_text, Effect.IGNORED),
    *_ANY_IOS,
)
_IOS_6 = (
    Need("unique_key", _is_uuid, Effect.KILLED),
    Need("phonenumber", _is_text, Effect.KILLED),
    Need("response_api", _is_text, Effect.KILLED),
    *_ANY_IOS,
)
_FLUTTER_IOS = (
    _RESPONSE_API,
    Need("unique_key", _is_text, Effect.IGNORED),
    Need("phonenumber", _is_text, Effect.IGNORED),
    *_ANY_IOS,
)

ANDROID_3 = Generation(
    name="Android 3.2-5.3",
    platform="android",
    needs=(*_OLD_ANDROID, _RESPONSE_API),
    repeat=Repeat.REFUSED,
    headers={**_ANDROID_HEADERS, "Cache-Control": "public, max-age=60"},
    extra={"os_version": "REL", "client_version": "9", "name": "maker product"},
    answers_to=AnswersTo.APPENDED,
    answers_signed=True,
    on_refusal=Effect.SIP_STOPPED,
)
ANDROID_3_0 = attrs.evolve(ANDROID_3, name="Android 3.0-3.1", on_lost_registration=Effect.VOIP_OFF)
GCM_3 = attrs.evolve(ANDROID_3, name="Android 3.2 over GCM", platform="gcm")
ANDROID_6 = Generation(
    name="Android 5.4-6.8",
    platform="android",
    needs=(*_ANY_ANDROID, _START_TIME),
    repeat=Repeat.REFUSED,
    headers=_ANDROID_HEADERS,
    extra={"os_version": "REL", "client_version": "10", "remote_logging_id": "a1b2c3"},
    answers_to=AnswersTo.OWN_HOST,
    answers_for=True,
    on_refusal=Effect.SIP_STOPPED,
)
IOS_4 = Generation(
    name="iOS 4-5",
    platform="apns",
    needs=_OLD_IOS,
    repeat=Repeat.HANDLED,
    headers=_IOS_HEADERS,
    extra={"sandbox": False, "os_version": "12.4", "client_version": "5.7"},
    registers=Body.JSON,
    unregisters=Body.JSON,
    answers=Body.JSON,
    answers_to=AnswersTo.ITS_HOST,
    answers_signed=True,
    words=("False", "True"),
    first_no=8,
    patience_s=15.0,
)
IOS_6 = attrs.evolve(
    IOS_4,
    name="iOS 6",
    needs=_IOS_6,
    extra={**IOS_4.extra, "push_profile": "once", "remote_logging_id": "a1b2c3"},
    answers_for=True,
    on_message=Effect.KILLED,
    rings_first=True,
    first_no=1,
    on_refusal=Effect.CALL_FAILED,
)
FLUTTER_ANDROID = Generation(
    name="Flutter Android 7.50",
    platform="android",
    needs=(*_ANY_ANDROID, _START_TIME, _RESPONSE_API, _VG_CID),
    repeat=Repeat.IGNORED,
    headers=_ANDROID_HEADERS,
    extra={"app_startup_timestamp": None, "sandbox": None, "dnd": False},
    registers=Body.JSON,
    unregisters=Body.JSON,
    delete_slash=False,
    message_start="An other device has registered for the same account",
    rings_first=True,
    on_401=None,
)
FLUTTER_DART_ANDROID = attrs.evolve(
    FLUTTER_ANDROID,
    name="Flutter Android 7.0",
    needs=(*_ANY_ANDROID, _START_TIME, _RESPONSE_API),
    headers={**_ANDROID_HEADERS, "X-Client-Platform": "android"},
    delete_slash=True,
    answers=Body.TEXTS,
    on_401=Effect.LOGGED_OUT,
)
FLUTTER_IOS = Generation(
    name="Flutter iOS 7.50",
    platform="apns",
    needs=_FLUTTER_IOS,
    repeat=Repeat.REFUSED,
    headers=_IOS_HEADERS,
    extra={"push_profile": "once", "sandbox": "false", "remote_notification_token": "cd" * 32},
    registers=Body.JSON,
    unregisters=Body.JSON,
    delete_slash=False,
    answers=Body.JSON,
    on_message=Effect.GHOST_CALL,
    rings_first=True,
    on_401=None,
    patience_s=15.0,
)
PIL_ANDROID = attrs.evolve(
    FLUTTER_ANDROID,
    name="Phone Integration Lib Android",
    registers=Body.FORM,
    unregisters=Body.FORM,
    delete_slash=True,
    extra={},
)
PIL_IOS = attrs.evolve(
    FLUTTER_IOS,
    name="Phone Integration Lib iOS",
    extra={"sandbox": "false", "push_profile": "once"},
    registers=Body.FORM,
    unregisters=Body.QUERY,
    delete_slash=True,
    answers=Body.FORM,
)
GENERATIONS = (
    ANDROID_3_0,
    ANDROID_3,
    GCM_3,
    ANDROID_6,
    IOS_4,
    IOS_6,
    FLUTTER_DART_ANDROID,
    FLUTTER_ANDROID,
    FLUTTER_IOS,
    PIL_ANDROID,
    PIL_IOS,
)
