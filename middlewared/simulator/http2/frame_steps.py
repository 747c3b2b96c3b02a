"""
Simulator, HTTP/2: the troubles that can be ordered of any HTTP/2 server, as values.

A script is a sequence of steps taken in order for one request; a step that answers or
destroys ends it.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs


@attrs.frozen
class ResetStream:
    """RST_STREAM; 7 (REFUSED_STREAM) promises that the request was not processed."""

    code: int = 2


@attrs.frozen
class Head:
    """The head of an answer without its end, which a further step determines."""

    status: int = 200


@attrs.frozen
class Part:
    """A piece of the answer's body without its end, after :class:`Head`."""

    data: bytes


@attrs.frozen
class GoAway:
    """
    GOAWAY that leaves out the latest ``unprocessed`` streams, this request's among them.

    ``reason`` becomes Apple's JSON, ``debug`` is sent as it is. ``graceful``: announced by a
    GOAWAY that leaves out no stream, one round trip ahead (RFC 9113, section 6.8).
    ``close``: the connection is closed as soon as all processed requests are answered.
    """

    unprocessed: int = 0
    code: int = 0
    reason: str | None = None
    close: bool = False
    debug: bytes = b""
    graceful: bool = False


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


FrameStep: TypeAlias = (
    ResetStream
    | Head
    | Part
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


@attrs.frozen(kw_only=True)
class Http2Behaviour:
    """
    How a connection behaves from its start; sizes in bytes.

    ``replenish``: whether used connection window is given back. ``goaway_after``: GOAWAY and
    close after this many requests taken. ``most_resets``: GOAWAY and close when the peer has
    reset this many streams. ``validate_headers``: whether h2 validates every header field (a
    fifth of its time).
    """

    greeting: Greeting = Greeting.SETTINGS
    max_concurrent_streams: int = 1000
    initial_window: int = 65_535
    connection_window: int = 65_535
    header_table_size: int = 4_096
    max_header_list_size: int = 8_000
    replenish: bool = True
    goaway_after: int | None = None
    most_resets: int | None = None
    validate_headers: bool = True
