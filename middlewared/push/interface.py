"""
The push seam: one provider for each configured app and platform.

A provider gives exactly one result for every push, no later than the push's deadline, and
never raises because of a peer.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, TypeAlias

import attrs

from middlewared.model import Call, Device, Platform
from middlewared.push.payload_template import PayloadTemplate, Values

UNWANTED = "unwanted"
"""The reason of a push that was dropped before it was sent, since its call was over."""


def always_wanted() -> bool:
    """For pushes that are useful until their deadline."""
    return True


@attrs.frozen
class CallPush:
    """
    Wake ``device`` for ``call``. ``attempt`` counts the pushes of a call from 1.

    ``wanted`` is called right before the push is sent, and again if it is resent within one
    attempt. False: the call is over, and the push is dropped as Temporary(UNWANTED). True:
    the push counts as sent.
    """

    device: Device
    call: Call
    attempt: int
    response_api: str
    wanted: Callable[[], bool] = attrs.field(default=always_wanted, eq=False, repr=False)
    repeat_after_s: float = 0.0
    """
    The shortest time from sending a push to its repeat, if its result is uncertain: until
    then its status may still arrive and make the repeat unnecessary.
    """

    template: PayloadTemplate | None = attrs.field(default=None, repr=False)
    """What the app reads; None: what Vialer's apps read."""

    @property
    def deadline(self) -> float:
        """From when on the push must not be sent, by the process's own clock."""
        return self.call.deadline

    def values(self, caller_id: str) -> Values:
        """What the placeholders of a template stand for, with this name of the caller."""
        call, incoming = self.call, self.call.incoming
        return {
            "unique_key": call.unique_key,
            "phonenumber": incoming.phonenumber,
            "caller_id": caller_id,
            "response_api": self.response_api,
            "message_start_time": call.start_time,
            "attempt": self.attempt,
            "call_id": incoming.call_id or call.unique_key,
            "sip_user_id": incoming.sip_user_id,
        }


@attrs.frozen
class NoticePush:
    """
    Notify ``device`` that its account moved to another device (a text, not a call).

    ``deadline`` is by the process's own clock, as a call's is.

    iOS: an alert to ``remote_notification_token``, never a VoIP push (iOS kills the app).
    Android and GCM: data type "message".
    """

    device: Device
    message: str
    deadline: float


Push: TypeAlias = CallPush | NoticePush


@attrs.frozen
class Accepted:
    """The provider accepted the push; it may not be delivered yet."""

    label: ClassVar[str] = "accepted"
    reason: ClassVar[str] = ""
    canonical_token: str | None = attrs.field(default=None, repr=False)
    """The token to store instead of the one that was pushed to (legacy FCM, GCM)."""

    other_environment: bool = False
    """Apple refused the token in the device's environment and accepted it in the other one."""

    provider_id: str = attrs.field(default="", eq=False)
    """The provider's id of the push, for the log and the provider's support; "": none."""


@attrs.frozen
class TokenDead:
    """The token will never work again: remove the device and end the call."""

    label: ClassVar[str] = "token-dead"
    provider_id: ClassVar[str] = ""
    reason: str
    since: float | None = None
    """Epoch seconds in APNs' 410: a device that registered later keeps its registration."""


@attrs.frozen
class TokenSuspect:
    """The token belongs to another environment, app or sender: end the call, keep the device."""

    label: ClassVar[str] = "token-suspect"
    provider_id: ClassVar[str] = ""
    reason: str


@attrs.frozen
class ConfigFault:
    """Credentials, topic or project are wrong for every device of the app: log it, no retry."""

    label: ClassVar[str] = "config-fault"
    provider_id: ClassVar[str] = ""
    reason: str


@attrs.frozen
class Rejected:
    """This push was refused for good: a bug of ours, or an undocumented 4xx."""

    label: ClassVar[str] = "config-fault"
    provider_id: ClassVar[str] = ""
    reason: str


@attrs.frozen
class Temporary:
    """Another attempt may succeed: transport failure, 5xx, 429."""

    label: ClassVar[str] = "temporary"
    provider_id: ClassVar[str] = ""
    reason: str
    retry_after_s: float | None = None
    """The pause that the provider requested (Retry-After); None: our own back-off; 0: none."""


@attrs.frozen
class Uncertain:
    """
    The whole push was sent but no status came: it may have been delivered.

    The connection was lost, the stream was reset (other than as refused), the provider did
    not respond in time, or a GOAWAY covers the stream. A push whose last byte was not sent,
    or that the provider reported as not processed, is Temporary.
    """

    label: ClassVar[str] = "temporary"
    reason: str
    sent_at: float
    """When its last byte was handed to the connection, by the process's own clock."""

    provider_id: str = attrs.field(default="", eq=False)
    """The provider's id of the push, if known; see :class:`Accepted`."""


MALFORMED_TOKEN = TokenSuspect("malformed-token")
"""The device's token is not one of its provider's: refused here, with a reason of our own."""

# Each result has ``label`` (the label ``result`` of metrics), ``reason`` (the provider's own,
# or one of ours if it gave none; never a secret) and ``provider_id``.
PushResult: TypeAlias = (
    Accepted | TokenDead | TokenSuspect | ConfigFault | Rejected | Temporary | Uncertain
)


class Resend(enum.Enum):
    """When a device that has not answered gets a further push (the ``resend`` setting)."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class PushProvider(Protocol):
    """
    Sends pushes of one app on one platform. Each call of ``send`` is one attempt.

    Implementations inherit the defaults, which are those of a provider that needs no
    connection before its first push.
    """

    @property
    def up(self) -> bool | None:
        """Whether it could push now; None: not known before a push."""
        return None

    @property
    def problem(self) -> str:
        """Why it is not prepared yet, in a few words; "" if unknown."""
        return ""

    @property
    def credential_expiry(self) -> float | None:
        """When its credentials expire, in epoch seconds; None: never."""
        return None

    def connection_states(self) -> Mapping[tuple[str, str], int]:
        """How many connections there are for each (environment, state)."""
        return {}

    async def start(self) -> None:
        """Begin to connect; a provider that is down does not fail the start."""
        return

    async def prepared(self) -> None:
        """Wait until it can push, after ``start``; for one caller at a time."""
        return

    async def stop(self) -> None:
        """Close all connections; pushes in flight end as Temporary or Uncertain."""
        return

    async def send(self, push: Push) -> PushResult:
        """
        Send ``push`` once and return the result.

        It comes no later than ``push.deadline``: Temporary("deadline") if the push was not
        completely sent by then, else Uncertain. Cancelling the awaiting Deferred withdraws a
        push that was not sent yet.
        """


@attrs.frozen(kw_only=True)
class Route:
    """How devices of one app and platform are reached."""

    provider: PushProvider
    resend: Resend = Resend.AUTO
    lost_account_notice: bool = True
    response_api: str = ""
    """Where its devices answer; "": as all others."""
    resend_interval_s: float | None = None
    """The time between two pushes of a call; None: as for all others."""
    template: PayloadTemplate | None = None
    """What its devices read; None: what Vialer's apps read."""


class Routes(Protocol):
    """The routes to all configured apps and platforms."""

    def find(self, app: str, platform: Platform) -> Route | None:
        """The current route; None when the configuration has no such app."""
