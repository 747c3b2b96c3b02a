"""
The header block of a push to Apple.

The headers that all pushes of a kind share are encoded once. Those that could identify a
device or a team are marked so that no intermediary indexes them.
Source: Apple, "Sending notification requests to APNs".
"""

from __future__ import annotations

from itertools import count
from random import getrandbits
from urllib.parse import quote

import attrs

from middlewared.push.http2.header_blocks import (
    METHOD_POST,
    SCHEME_HTTPS,
    SIZE_OVERHEAD,
    StaticName,
    literal,
    text,
)

NOTICE_LIFE_S = 24 * 3600
"""How long Apple stores a notice for a phone that is off."""

_DIGITS = f"{getrandbits(80):020x}"
_IDS_BEGIN = f"{_DIGITS[:8]}-{_DIGITS[8:12]}-4{_DIGITS[13:16]}-a{_DIGITS[17:20]}-".encode()
_IDS = count(getrandbits(48))
_PATH = bytes([0x10 | StaticName.PATH])
_EXPIRATION = literal(b"apns-expiration", b"")[:-1]
_ID = literal(b"apns-id", b"")[:-1]


@attrs.frozen
class RequestKind:
    """The headers that all requests of a kind to one environment share, encoded."""

    start: bytes
    shared: bytes
    list_size: int
    """Of all headers, less the device's token and the authorization; see :meth:`list_size_of`."""

    @classmethod
    def of(cls, *, authority: str, topic: str, push_type: str) -> RequestKind:
        """The shared headers for a host, a topic and ``voip`` or ``alert``."""
        shared = (
            (b"apns-topic", topic.encode()),
            (b"apns-push-type", push_type.encode()),
            (b"apns-priority", b"10"),
        )
        host = literal(StaticName.AUTHORITY, authority.encode())
        counted = (
            *((b":method", b"POST"), (b":scheme", b"https"), (b":authority", authority.encode())),
            *((b":path", b"/3/device/"), *shared),
            *((b"apns-expiration", b"1575988800"), (b"apns-id", new_id())),
        )
        return cls(
            METHOD_POST + SCHEME_HTTPS + host,
            b"".join(literal(name, value) for name, value in shared),
            sum(len(name) + len(value) + SIZE_OVERHEAD for name, value in counted),
        )

    def list_size_of(self, *, token: str, authorization: bytes) -> int:
        """The size of a push's header list (RFC 9113 section 6.5.2), or a few octets more."""
        size = self.list_size + len(token)
        return (
            size + len(b"authorization") + len(authorization) + SIZE_OVERHEAD
            if authorization
            else size
        )

    def block(
        self, *, token: str, authorization: bytes, expiration: float, apns_id: bytes | None = None
    ) -> bytes:
        """
        The header block of one push.

        :param token: the device's; it is quoted if needed, but Apple validates it.
        :param authorization: a header encoded by :func:`authorization_header`; b"": none.
        :param expiration: epoch seconds until which Apple may keep trying.
        :param apns_id: a UUID; None: a new one.
        """
        if not (token.isascii() and token.isalnum()):
            token = quote(token, safe="", errors="replace")
        return b"".join(
            (
                self.start,
                _PATH,
                text(b"/3/device/" + token.encode()),
                authorization,
                self.shared,
                _EXPIRATION,
                text(b"%d" % expiration),
                _ID,
                text(apns_id or new_id()),
            )
        )


def authorization_header(provider_token: str) -> bytes:
    """The encoded header that carries a provider token."""
    value = b"bearer " + provider_token.encode()
    return literal(StaticName.AUTHORIZATION, value, sensitive=True)


def new_id() -> bytes:
    """
    An apns-id: a UUID (version 4), unique and not secret.

    Only the first one of a process is random, the others count up from it: 128 random bits
    for each would cost 2 % of a push.
    """
    return b"%s%012x" % (_IDS_BEGIN, next(_IDS) & 0xFFFF_FFFF_FFFF)
