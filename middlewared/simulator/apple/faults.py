"""
Simulator, Apple: the troubles that can be ordered, as values.

A script is a sequence of steps taken in order for one push; a step
that answers or destroys ends it, and a script that runs out accepts the push. Only a
valid push runs its script.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeAlias

import attrs

from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall

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


@attrs.frozen
class ResetStream:
    """RST_STREAM; 7 (REFUSED_STREAM) promises that the push was not processed."""

    code: int = 2


@attrs.frozen
class Head:
    """The head of an answer without its end, which a further step determines."""

    status: int = 200


@attrs.frozen
class GoAway:
    """
    GOAWAY that leaves out the latest ``unprocessed`` streams, this push's among them.

    ``close``: the connection is closed as soon as all processed pushes are answered.
    """

    unprocessed: int = 0
    code: int = 0
    reason: str | None = None
    close: bool = False


@attrs.frozen
class StreamLimit:
    """Change SETTINGS_MAX_CONCURRENT_STREAMS."""

    limit: int


@attrs.frozen
class Interim:
    """An interim response ahead of the final one."""

    status: int = 103


@attrs.frozen
class ExtraHeaders:
    """More header fields in the answer; over 16 KiB of them make CONTINUATION frames."""

    headers: tuple[tuple[str, str], ...]


@attrs.frozen
class Trailers:
    """Trailers end the answer."""

    headers: tuple[tuple[str, str], ...] = (("x-trailer", "simulated"),)


@attrs.frozen
class Padding:
    """Pad the answer's DATA frame."""

    length: int = 32


@attrs.frozen
class RawFrames:
    """Bytes put on the wire as they are: unknown frames, padded frames, nonsense."""

    data: bytes


Step: TypeAlias = (
    Reject
    | Delay
    | Deliver
    | Stall
    | ResetStream
    | ResetConnection
    | HangUp
    | Head
    | GoAway
    | StreamLimit
    | Interim
    | ExtraHeaders
    | Trailers
    | Padding
    | RawFrames
)


class Greeting(enum.Enum):
    """What a new connection meets first."""

    SETTINGS = "settings"
    NO_SETTINGS = "no settings: TLS is done, HTTP/2 is silent"
    SILENT = "not even a TLS handshake"
    CLOSE = "closed at once"
    RESET = "reset at once"


@attrs.frozen
class Behaviour:
    """
    How a connection behaves from its start; sizes in bytes.

    ``one_until_success``: one stream until a push was accepted; None: as Apple does it,
    with provider tokens only. ``limit_after_rejection``: the limit from a rejected push
    to the next accepted one. ``replenish``: whether used connection window is given back.
    ``goaway_after``: GOAWAY and close after this many accepted pushes.
    ``most_resets``: GOAWAY and close when the peer has reset this many streams.
    ``validate_headers``: whether h2 validates every header field (a fifth of its time).
    """

    greeting: Greeting = Greeting.SETTINGS
    refuse_certificate: bool = False
    max_concurrent_streams: int = 1000
    one_until_success: bool | None = None
    limit_after_rejection: int | None = None
    initial_window: int = 65_535
    header_table_size: int = 4_096
    max_header_list_size: int = 8_000
    replenish: bool = True
    goaway_after: int | None = None
    most_resets: int | None = None
    validate_headers: bool = True
