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

    The user ends at the first colon, the password may contain more.

    :param lenient: characters that are not base64's are left out, and bytes that are not
        UTF-8 are replaced, as some servers do.
    """
    try:
        decoded = base64.b64decode(parameters.strip(), validate=not lenient)
        text = decoded.decode("utf-8", "replace" if lenient else "strict")
    except (binascii.Error, ValueError):
        return None
    user, colon, password = text.partition(":")
    return (user, password) if colon else None
