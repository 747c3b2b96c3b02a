"""Basic credentials (RFC 7617), in UTF-8."""

from __future__ import annotations

import base64
import binascii


def encode_basic(user: str, password: str) -> bytes:
    """The value of an Authorization or Proxy-Authorization header."""
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def decode_basic(parameters: str | bytes, errors: str = "strict") -> tuple[str, str] | None:
    """
    User and password from what follows ``Basic`` in the header; None: it is malformed.

    The user ends at the first colon, the password may contain more.

    :param errors: what is done about bytes that are not UTF-8, as in ``bytes.decode``.
    """
    try:
        decoded = base64.b64decode(parameters.strip(), validate=True).decode("utf-8", errors)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(":")
    return (user, password) if colon else None
