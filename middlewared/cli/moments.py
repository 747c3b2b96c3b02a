"""
Moments that an operator writes: ``2h`` ago, or a date and time.
"""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str, now: float) -> float:
    """
    Epoch seconds of ``90s``, ``30m``, ``2h``, ``3d`` (before ``now``) or ISO 8601.

    A time without an offset is UTC, as all times that commands print.

    :raises argparse.ArgumentTypeError: it is neither.
    """
    if match := _AGO.fullmatch(text):
        return now - int(match[1]) * _UNIT_S[match[2]]
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        what = f"{text!r} is neither like 30m, 2h or 3d nor a date such as 2026-11-29T12:00"
        raise argparse.ArgumentTypeError(what) from None
