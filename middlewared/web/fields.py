"""
From named texts to the values of the domain.

Every value returned here has passed the rules of the API. Everything else is BadRequest,
whose text names the field, never its value; a name that the client chose is cut and quoted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import attrs

from middlewared.booleans import parse_boolean
from middlewared.errors import BadRequest
from middlewared.model import (
    GOOGLE_TOKEN,
    MAX_ACCOUNT,
    Answer,
    Device,
    IncomingCall,
    Platform,
    SipUserId,
    is_text_account,
)
from middlewared.quoting import quoted
from middlewared.web.bodies import RawFields
from middlewared.web.push_parameters import PushParameters
from middlewared.web.settings import WebSettings

MAX_TEXT = 255
MAX_TOKEN = 4096
MAX_PRID = MAX_TOKEN + 512
"""Two tokens of Apple's with the names of their services, or one of Google's, perhaps escaped."""
MAX_PHONENUMBER = 32
DEFAULT_EXPIRES_S = 3600

REPORT_FIELDS = frozenset(
    (
        "os",
        "os_version",
        "app_version",
        "app_status",
        "middleware_unique_key",
        "bluetooth_audio",
        "bluetooth_device",
        "network",
        "network_operator",
        "network_signal_strength",
        "direction",
        "connection_type",
        "call_setup_successful",
        "client_country",
        "call_id",
        "log_id",
        "time_to_initial_response",
        "failed_reason",
        "codec",
        "mos",
        "hangup_reason",
        "call_duration",
    )
)

_WITHHELD = frozenset(
    # "supressed" is what deployed PBXs and apps send.
    ("anonymous", "unknown", "withheld", "restricted", "private", "suppressed", "supressed")
)
_PHONENUMBER_MARKS = str.maketrans("", "", " +()-–./xX")
_INTEGER = re.compile(r"([0-9]{1,18})(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
# The API accepts fewer words than files and configurations do.
_BOOLEAN_WORDS = frozenset(("true", "t", "1", "yes", "false", "f", "0", "no"))


@attrs.frozen
class PhoneAnswer:
    """A phone's answer, and the key of its call."""

    unique_key: str
    answer: Answer


@attrs.frozen
class SipRegistration:
    """
    An account has registered at the SIP registrar.

    ``call_id``: of the call that it answers; "": any of the account. ``expires``: in seconds;
    0: it has left. ``push``: of its contact; None: that has none.
    """

    sip_user_id: SipUserId
    call_id: str
    expires: int
    push: PushParameters | None


@attrs.frozen
class DeviceId:
    """What must match for a device to be removed, beside its platform."""

    sip_user_id: SipUserId
    app: str
    token: str = attrs.field(repr=False)


@attrs.frozen
class Hangup:
    """Why an app ended a call."""

    sip_user_id: SipUserId
    unique_key: str
    reason: str


def incoming_call(raw: RawFields, settings: WebSettings, pbx: str = "") -> IncomingCall:
    """The call that the PBX of this name has for an account."""
    return IncomingCall(
        sip_user_id=sip_user_id(raw, settings),
        phonenumber=_phonenumber(raw),
        caller_id=_text(raw, "caller_id"),
        call_id=_text(raw, "call_id"),
        pbx=pbx,
    )


def cancelled_call(raw: RawFields, settings: WebSettings) -> IncomingCall:
    """What names the call whose caller gave up: its account and call_id."""
    return IncomingCall(sip_user_id(raw, settings), "", call_id=_required(raw, "call_id"))


def sip_registration(raw: RawFields, settings: WebSettings) -> SipRegistration:
    """The registration of an account at the SIP registrar."""
    return SipRegistration(
        sip_user_id=sip_user_id(raw, settings),
        call_id=_text(raw, "call_id"),
        expires=_expires(raw),
        push=PushParameters.of(
            _text(raw, "pn_provider"),
            _text(raw, "pn_param"),
            _text(raw, "pn_prid", MAX_PRID),
        ),
    )


def phone_answer(raw: RawFields, received_at: float) -> PhoneAnswer:
    """The answer of a phone; ``received_at`` is of the monotonic clock."""
    return PhoneAnswer(
        unique_key=_required(raw, "unique_key"),
        answer=Answer(
            available=_boolean(raw, "available", default=True),
            message_start_time=_number(raw, "message_start_time"),
            received_at=received_at,
        ),
    )


def device(raw: RawFields, platform: Platform, settings: WebSettings, now: float) -> Device:
    """The device that an app registers; ``now`` is of the wall clock."""
    return Device(
        sip_user_id=sip_user_id(raw, settings),
        platform=platform,
        app=_required(raw, "app"),
        token=_push_token(raw, platform),
        name=_text(raw, "name"),
        os_version=_text(raw, "os_version"),
        client_version=_text(raw, "client_version"),
        remote_logging_id=_text(raw, "remote_logging_id"),
        sandbox=_boolean(raw, "sandbox", default=False),
        push_profile=_push_profile(raw),
        dnd=_boolean(raw, "dnd", default=False),
        remote_notification_token=_token(raw, "remote_notification_token"),
        registered_at=now,
        last_seen=now,
    )


def device_id(raw: RawFields, settings: WebSettings) -> DeviceId:
    """The device that an app unregisters."""
    return DeviceId(
        sip_user_id=sip_user_id(raw, settings),
        app=_required(raw, "app"),
        token=_token(raw, "token", required=True),
    )


def hangup(raw: RawFields, settings: WebSettings) -> Hangup:
    """Why a call ended; the one known client sends ``hangup_reason`` for ``reason``."""
    return Hangup(
        sip_user_id=sip_user_id(raw, settings),
        unique_key=_required(raw, "unique_key"),
        reason=_text(raw, "reason") or _required(raw, "hangup_reason"),
    )


def report(raw: RawFields) -> Mapping[str, str]:
    """All texts of an app's report but its account. Unknown lists and objects are left out."""
    known = {name: _text(raw, name, longest=None) for name in REPORT_FIELDS if name in raw}
    others = {
        _clean(name, "a name"): _clean(value, quoted(name))
        for name, value in raw.items()
        if name not in REPORT_FIELDS and name != "sip_user_id" and value is not None
    }
    return {name: text for name, text in (known | others).items() if text}


def sip_user_id(raw: RawFields, settings: WebSettings) -> SipUserId:
    """The account that a request is for."""
    if settings.sip_user_id_pattern is not None:
        text = _required(raw, "sip_user_id", MAX_ACCOUNT)
        if not is_text_account(text, settings.sip_user_id_pattern):
            raise BadRequest("sip_user_id: does not match sip_user_id_pattern")
        return text
    text = _required(raw, "sip_user_id")
    integer = _INTEGER.fullmatch(text)
    if integer is None:
        raise BadRequest("sip_user_id: not an integer")
    account = int(integer[1])
    if not settings.sip_user_id_min <= account <= settings.sip_user_id_max:
        raise BadRequest("sip_user_id: out of range")
    return account


def _text(raw: RawFields, name: str, longest: int | None = MAX_TEXT) -> str:
    text = raw.get(name, "")
    if text is None:
        raise BadRequest(f"{name}: not a text")
    if longest is not None and len(text) > longest:
        raise BadRequest(f"{name}: longer than {longest}")
    return _clean(text, name)


def _clean(text: str, name: str) -> str:
    if "\0" in text:
        raise BadRequest(f"{name}: NUL")
    # Only a JSON escape can yield a surrogate, which no database and no peer accepts.
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadRequest(f"{name}: invalid character")
    return text


def _required(raw: RawFields, name: str, longest: int = MAX_TEXT) -> str:
    text = _text(raw, name, longest)
    if not text:
        raise BadRequest(f"{name}: missing")
    return text


def _token(raw: RawFields, name: str, *, required: bool = False) -> str:
    text = _required(raw, name, MAX_TOKEN) if required else _text(raw, name, MAX_TOKEN)
    if any(letter.isspace() for letter in text):
        raise BadRequest(f"{name}: white space")
    return text


def _push_token(raw: RawFields, platform: Platform) -> str:
    """A token; an odd one of Apple's is stored, so that the failed push shows the faulty app."""
    text = _token(raw, "token", required=True)
    if platform is not Platform.APNS and GOOGLE_TOKEN.fullmatch(text) is None:
        raise BadRequest("token: not a token of Google's")
    return text


def _phonenumber(raw: RawFields) -> str:
    text = _text(raw, "phonenumber", longest=None).strip()
    digits = text.translate(_PHONENUMBER_MARKS)
    if len(text) > MAX_PHONENUMBER:
        raise BadRequest(f"phonenumber: longer than {MAX_PHONENUMBER}")
    if not (digits.isascii() and digits.isdigit()) and text.lower() not in _WITHHELD:
        raise BadRequest("phonenumber: not a number")
    return text


def _expires(raw: RawFields) -> int:
    """The delta-seconds of RFC 3261 section 20.19."""
    text = _text(raw, "expires") or str(DEFAULT_EXPIRES_S)
    integer = _INTEGER.fullmatch(text)
    if integer is None:
        raise BadRequest("expires: not an integer")
    return int(integer[1])


def _push_profile(raw: RawFields) -> str:
    text = _text(raw, "push_profile")
    if text not in ("", "once"):
        raise BadRequest("push_profile: unknown")
    return text


def _boolean(raw: RawFields, name: str, *, default: bool) -> bool:
    text = _text(raw, name).lower()
    if not text:
        return default
    value = parse_boolean(text) if text in _BOOLEAN_WORDS else None
    if value is None:
        raise BadRequest(f"{name}: not a boolean")
    return value


def _number(raw: RawFields, name: str) -> float:
    text = _required(raw, name)
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise BadRequest(f"{name}: not a number")
    return number
