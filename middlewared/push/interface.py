"""
The push seam: one provider for each configured app and platform.

The one invariant: a provider answers every push with exactly one result, no later
than the push's deadline, and never raises for what a peer did.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias

import attrs

from middlewared.model import Call, Device, Platform


def _always() -> bool:
    return True


@attrs.frozen
class CallPush:
    """
    Wake ``device`` for ``call``. ``attempt`` counts the pushes of a call from 1.

    ``wanted`` is called right before the push is sent, and again if it is resent within one
    attempt. False: the call is over, and the push is dropped as Temporary("unwanted"). True:
    it counts as sent.
    """

    device: Device
    call: Call
    attempt: int
    response_api: str
    wanted: Callable[[], bool] = attrs.field(default=_always, eq=False, repr=False)
    repeat_after_s: float = 0.0
    """
    The shortest time from sending a push to its repeat, if it is uncertain: until then its
    status may still arrive and make the repeat unnecessary.
    """

    @property
    def deadline(self) -> float:
        """When the push must not be sent any more, by the clock of its call."""
        return self.call.deadline


@attrs.frozen
class NoticePush:
    """
    Tell ``device`` that its account moved to another device (a text, not a call).

    ``deadline`` is one by the process's own clock, as a call's is.

    iOS: an alert to ``remote_notification_token``, never a VoIP push (iOS kills the app).
    Android and GCM: data type "message".
    """

    device: Device
    message: str
    deadline: float


Push: TypeAlias = CallPush | NoticePush


@attrs.frozen
class Accepted:
    """The provider took the push (which is not: delivered)."""

    label: ClassVar[str] = "accepted"
    reason: ClassVar[str] = ""
    canonical_token: str | None = attrs.field(default=None, repr=False)
    """The token to store instead of the one that was pushed to (legacy FCM, GCM)."""

    other_environment: bool = False
    """Apple refused the device's environment with BadDeviceToken and took it in the other."""

    provider_id: str = attrs.field(default="", eq=False)
    """The provider's id of the push, for the log and its support; "": it gave none."""


@attrs.frozen
class TokenDead:
    """The token will never work again: remove the device and end the call."""

    label: ClassVar[str] = "token-dead"
    reason: str
    since: float | None = None
    """Epoch seconds of APNs' 410: a device registered after it keeps its registration."""


@attrs.frozen
class TokenSuspect:
    """The token belongs to another environment, app or sender: end the call, keep the device."""

    label: ClassVar[str] = "token-suspect"
    reason: str


@attrs.frozen
class ConfigFault:
    """Credentials, topic or project are wrong for every device of the app: alarm, no retry."""

    label: ClassVar[str] = "config-fault"
    reason: str


@attrs.frozen
class Rejected:
    """This push was refused for good: our bug, or a 4xx nobody documented."""

    label: ClassVar[str] = "config-fault"
    reason: str


@attrs.frozen
class Temporary:
    """Another try may work: transport failure, 5xx, 429."""

    label: ClassVar[str] = "temporary"
    reason: str
    retry_after_s: float | None = None
    """What the provider asked for (Retry-After); None: our own back-off; 0: at once."""


@attrs.frozen
class Uncertain:
    """
    All of the push was sent but no status came: it may have been delivered.

    The connection was lost, the stream was reset (other than as refused), the provider did
    not answer in time, or a GOAWAY covers the stream. A push whose last byte was not sent, or
    that the provider did not process by its own account, is Temporary.
    """

    label: ClassVar[str] = "temporary"
    reason: str
    sent_at: float
    """When its last byte was handed to the connection, by the process's own clock."""

    provider_id: str = attrs.field(default="", eq=False)
    """The provider's id of the push, if known; see :class:`Accepted`."""


MALFORMED_TOKEN = TokenSuspect("malformed-token")
"""The device's token is no token of its provider, which was not asked: a reason of our own."""

# Each result has ``label`` (the word of the metric ``result``) and ``reason`` (the
# provider's own word, never a secret).
PushResult: TypeAlias = (
    Accepted | TokenDead | TokenSuspect | ConfigFault | Rejected | Temporary | Uncertain
)


class Resend(enum.Enum):
    """When a device that has not answered gets a further push (the ``resend`` setting)."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class PushProvider(Protocol):
    """Sends pushes of one app on one platform. One call of ``send`` is one provider attempt."""

    def start(self) -> None:
        """Begin to connect; a provider that is down does not fail the start."""

    async def stop(self) -> None:
        """Close all connections; pushes in flight end as Temporary or Uncertain."""

    async def send(self, push: Push) -> PushResult:
        """
        Send ``push`` once and give the provider's verdict.

        Ends when ``push.deadline`` passes: as Temporary("deadline") if the push was not
        completely sent, else as Uncertain. Cancelling the awaiting Deferred withdraws a push that
        was not sent yet.
        """


@attrs.frozen(kw_only=True)
class Route:
    """How devices of one app and platform are reached."""

    provider: PushProvider
    resend: Resend = Resend.AUTO
    lost_account_notice: bool = True


class Routes(Protocol):
    """The way to each configured app and platform."""

    def find(self, app: str, platform: Platform) -> Route | None:
        """The present route, None when the configuration has no such app."""
