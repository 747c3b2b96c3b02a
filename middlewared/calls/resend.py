"""
When a device that has not answered is pushed to again. Pure.

The one invariant: the first push goes at once, no two go together, and there are at
least one and at most ``int(wait / interval) - 1`` of them.
"""

from __future__ import annotations

from middlewared.model import Device
from middlewared.push.interface import Resend

FIRST_BACKOFF_S = 0.15
LONGEST_BACKOFF_S = 2.0


def push_times(
    device: Device,
    resend: Resend,
    *,
    started_at: float,
    now: float,
    wait_s: float,
    interval_s: float,
) -> list[float]:
    """
    When pushes of a call go out, by the clock of ``now``, beginning with ``started_at``.

    Of the times that have passed at ``now``, because the device was looked up slowly, only
    the last is given: several pushes at once wake no phone better than one.

    A device with push_profile "once" shows every push as a new call (iOS 13 and later),
    so under AUTO it gets one.
    """
    once = resend is Resend.NEVER or (resend is Resend.AUTO and device.push_profile == "once")
    count = 1 if once else max(1, int(wait_s / interval_s + 1e-9) - 1)
    times = [started_at + number * interval_s for number in range(count)]
    passed = sum(at <= now for at in times)
    return times[max(0, passed - 1) :]


def backoff_s(failures: int, spread: float) -> float:
    """
    How long to wait after the ``failures``-th temporary failure of one push in a row.

    :param spread: a random number in 0..1, so that pushes that failed together do not
        come back together.
    """
    longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (failures - 1))
    return longest * (0.5 + spread / 2)
