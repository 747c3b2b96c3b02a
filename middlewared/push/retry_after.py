"""
The pause that a provider requests by Retry-After; one that cannot be read is ignored.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 3600.0


def retry_after_s(text: str, now: float) -> float | None:
    """
    A Retry-After header as seconds from now (RFC 9110 section 10.2.3).

    :param text: seconds or an HTTP date; "": there was none.
    :param now: epoch seconds, if possible by the sender's clock.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    at = epoch_of(text)
    return None if at is None else min(max(0.0, at - now), MAX_RETRY_AFTER_S)


def epoch_of(text: str) -> float | None:
    """An HTTP date as epoch seconds; None when it is not a date."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
