"""
Simulator, Apple: the troubles that can be ordered, as values.

A script is a sequence of steps taken in order for one push; a step
that answers or destroys ends it, and a script that runs out accepts the push. Only a
valid push runs its script.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import attrs

from middlewared.simulator.http2.frame_steps import (
    ExtraHeaders,
    FrameStep,
    GoAway,
    Greeting,
    Head,
    Http2Behaviour,
    Interim,
    Padding,
    Part,
    RawFrames,
    ResetStream,
    StreamLimit,
    Trailers,
)
from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall

__all__ = [
    "STATUS_OF_REASON",
    "Behaviour",
    "ExtraHeaders",
    "GoAway",
    "Greeting",
    "Head",
    "Interim",
    "Padding",
    "Part",
    "RawFrames",
    "Reject",
    "ResetStream",
    "Step",
    "StreamLimit",
    "Trailers",
    "rejection",
]

# Status of each reason, as Apple's "Handling notification responses" lists them.
STATUS_OF_REASON: Mapping[str, int] = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "BadEnvironmentKeyInToken": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}


@attrs.frozen
class Reject:
    """Answer with ``status`` and the JSON body, or with ``body`` as it is."""

    status: int
    reason: str
    timestamp_ms: int | None = None
    retry_after: str | None = None
    body: bytes | None = None


def rejection(
    reason: str, *, timestamp_ms: int | None = None, retry_after: str | None = None
) -> Reject:
    """Make the rejection that Apple documents for ``reason``."""
    return Reject(STATUS_OF_REASON[reason], reason, timestamp_ms, retry_after)


Step: TypeAlias = Reject | Delay | Deliver | Stall | ResetConnection | HangUp | FrameStep


@attrs.frozen(kw_only=True)
class Behaviour(Http2Behaviour):
    """
    How a connection of Apple behaves from its start.

    ``one_until_success``: one stream until a push was accepted; None: as Apple does it,
    with provider tokens only. ``limit_after_rejection``: the limit from a rejected push
    to the next accepted one.
    """

    refuse_certificate: bool = False
    one_until_success: bool | None = None
    limit_after_rejection: int | None = None
