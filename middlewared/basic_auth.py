"""Basic credentials (RFC 7617), in UTF-8."""

from __future__ import annotations

import base64
import binascii


def encode_basic(user: str, password: str) -> bytes:
    """The value of an Authorization or Proxy-Authorization header."""
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def decode_basic(parameters: str | bytes, *, lenient: bool = False) -> tuple[str, str] | None:
    """
    User and password from what follows ``Basic`` in the header; None: it is malformed.

    The user ends at the first colon, the password may contain more. Bytes that are not UTF-8
    (older clients send Latin-1) become surrogate escapes.

    :param lenient: characters outside the alphabet of base64 are left out, as some servers do.
    """
    try:
        decoded = base64.b64decode(parameters.strip(), validate=not lenient)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.decode("utf-8", "surrogateescape").partition(":")
    return (user, password) if colon else None
