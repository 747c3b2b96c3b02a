"""
The values of the domain: frozen, without input, output or a clock.

A point in time whose name ends in ``_at``, and a deadline, are seconds (float) of the
process's monotonic clock; one whose name ends in ``_time`` is wall-clock time in epoch
seconds. Devices and response records are read by others: all their times are epoch
seconds. A duration carries its unit in its name.
"""

from __future__ import annotations

import enum
import re
import secrets
from typing import TypeAlias

import attrs

GOOGLE_TOKEN = re.compile(r"[A-Za-z0-9_:-]+")
"""The characters of Google's push tokens."""


MAX_ACCOUNT = 128
"""Characters that an account may have where accounts are texts."""

SipUserId: TypeAlias = int | str
"""
An account: a number or, where ``[accounts] sip_user_id_pattern`` is set, a text. All accounts of
an installation are of one kind, and are only compared and shown.
"""


def is_text_account(text: str, pattern: re.Pattern[str]) -> bool:
    """
    Whether ``text`` is an account of an installation whose accounts are texts.

    It must be one printable word: it stands in log lines as it is.
    """
    one_word = text.isprintable() and not any(each in " \"'" for each in text)
    return one_word and len(text) <= MAX_ACCOUNT and pattern.fullmatch(text) is not None


class Platform(enum.Enum):
    """How a device is woken; the value is used on the wire and in metrics."""

    APNS = "apns"
    ANDROID = "android"
    GCM = "gcm"


class Outcome(enum.Enum):
    """How a call ended; the value is that of the header ``X-Outcome``."""

    ANSWERED = "answered"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    NO_DEVICE = "no-device"
    TOKEN_DEAD = "token-dead"
    PUSH_FAILED = "push-failed"
    CANCELLED = "cancelled"
    NO_CALL = "no-call"
    MALFORMED = "malformed"
    FORBIDDEN = "forbidden"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    SERVICE_DOWN = "service-down"

    @property
    def acknowledged(self) -> bool:
        """Whether the PBX should send the call (``status=ACK``)."""
        return self is Outcome.ANSWERED


@attrs.frozen
class IncomingCall:
    """
    The PBX's request; every text has passed the field rules, "" means absent.

    ``pbx``: the name of the PBX's section. It belongs to this request: a repeat may come from
    another PBX, and Redis does not keep it.
    """

    sip_user_id: SipUserId
    phonenumber: str
    caller_id: str = ""
    call_id: str = ""
    pbx: str = attrs.field(default="", eq=False)


@attrs.frozen
class Call:
    """
    One call that waits for its device.

    ``deadline`` is the end of its wait: ``started_at`` plus the round-trip wait that was
    configured when it started, so a reload does not change it. ``start_time`` is the
    wall-clock time of the start, as pushes carry it. ``by_registration``: whether a
    registration of its account at the SIP registrar answers it, as well as its phone.
    """

    unique_key: str
    incoming: IncomingCall
    started_at: float
    deadline: float
    start_time: float
    by_registration: bool = attrs.field(default=False, eq=False)


@attrs.frozen
class Answer:
    """
    A phone's answer to a call, and when this process received it.

    ``message_start_time`` is the start time the phone echoed, in epoch seconds; 0.0: it did
    not. It cannot be trusted: only the round-trip report may use it. ``id`` is ours: daemons
    pass answers on to each other, and one that arrives twice is counted once.
    """

    available: bool
    message_start_time: float
    received_at: float
    id: str = attrs.field(
        default=attrs.Factory(lambda self: self.new_id(), takes_self=True), eq=False, repr=False
    )

    def new_id(self) -> str:
        """A random id; "" for an acceptance, since only refusals are counted."""
        return "" if self.available else secrets.token_hex(4)


class AnswerResult(enum.Enum):
    """What became of a phone's answer."""

    ACCEPTED = "accepted"
    """The call waits, or was answered within its wait; a repeat of an answer is accepted, too."""
    LATE = "late"
    """The device was woken, and the call timed out a short while ago (rendezvous/late.py)."""
    UNKNOWN = "unknown"
    """No such call waits: made up, long over, or every PBX connection has gone."""


@attrs.frozen
class DeviceKind:
    """The app and platform of a device, as metrics and logs name them."""

    app: str
    platform: Platform


@attrs.frozen
class LateAnswer:
    """A phone answered ``late_s`` seconds after its call had timed out."""

    unique_key: str
    sip_user_id: SipUserId
    kind: DeviceKind
    available: bool
    late_s: float


@attrs.frozen
class Settlement:
    """How a waiting call was decided; ``answer``: of the phone that decided it, if one did."""

    outcome: Outcome
    answer: Answer | None = None

    @staticmethod
    def by(answer: Answer) -> Settlement:
        """The settlement of a call by ``answer``."""
        return Settlement(Outcome.ANSWERED if answer.available else Outcome.UNAVAILABLE, answer)


@attrs.frozen
class Device:
    """
    A registered app: the one device that rings for ``sip_user_id``.

    Texts are "" when the app did not send them. ``sandbox`` chooses Apple's
    environment; ``push_profile`` is "once" or "". ``registered_at`` and
    ``last_seen`` are epoch seconds.

    ``silent_streak`` counts the pushed calls in a row that it has not answered;
    ``last_answered``: when it last answered a call, in epoch seconds; None: never.

    What one more field takes, beside itself, here:

    1. ``web/fields.py`` (``device``) and ``web/openapi.json`` (its schema ``Device``): how an
       app sends it
    2. ``database/schema/*/N.sql``, the next number: its column, with a default for daemons of
       the release before (``database/migrations.py``), in ``devices`` and in ``text_devices``
    3. ``devices/queries.py`` (``from_row``), unless it is a text or a number
    4. ``cli/device_commands.py`` (``_fields``): how ``middlewared devices show`` prints it
    5. ``tests/contracts/devices.py`` (``a_device``), ``tests/test_web_fields.py``
    6. ``docs/operating.md``: the number of the schema, and what an export leaves out (or
       ``devices/predecessor.py`` imports it); ``CHANGELOG.md``

    Nothing else: the registries, their cache, statements and upgrade tests follow this class.
    """

    sip_user_id: SipUserId
    platform: Platform
    app: str
    token: str = attrs.field(repr=False)
    name: str = ""
    os_version: str = ""
    client_version: str = ""
    remote_logging_id: str = ""
    sandbox: bool = False
    push_profile: str = ""
    dnd: bool = False
    remote_notification_token: str = attrs.field(default="", repr=False)
    registered_at: float = 0.0
    last_seen: float = 0.0
    silent_streak: int = 0
    last_answered: float | None = None

    def is_same(self, other: Device) -> bool:
        """Whether both are the same app of the same account, with the same push token."""
        return (self.sip_user_id, self.platform, self.app, self.token) == (
            *(other.sip_user_id, other.platform, other.app, other.token),
        )

    @property
    def installation(self) -> str:
        """
        The part of the push token that does not change while the app is installed.

        For Google's tokens, the part before the colon: the Firebase installation ID, which
        is all that newer apps register.
        """
        head, colon, _ = self.token.partition(":")
        return head if colon and head and self.platform is not Platform.APNS else self.token


@attrs.frozen
class Wakeup:
    """
    A call whose push was accepted for ``device`` has ended.

    ``answered_at``: when the phone answered, with yes or no, in epoch seconds; None: not in
    time.
    """

    device: Device
    answered_at: float | None


@attrs.frozen
class ResponseRecord:
    """One row of ``response_log``: a phone's first answer to a call."""

    platform: Platform
    roundtrip_seconds: float
    available: bool
    answered_at: float
