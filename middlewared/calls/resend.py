"""
When a device that has not answered is pushed to again. Pure.

The first push is sent at once, no two at the same time, and there are at least one and at
most ``int(wait / interval) - 1``.
"""

from __future__ import annotations

import attrs

from middlewared.model import Device
from middlewared.push.interface import Resend

FIRST_BACKOFF_S = 0.15
LONGEST_BACKOFF_S = 2.0
UNCERTAIN_PAUSE_S = 1.5
"""How long a "once" device has to answer an uncertain push before it is repeated."""


def is_pushed_once(device: Device, resend: Resend) -> bool:
    """
    Whether the device gets one push for a call.

    A device with push_profile "once" shows every push as a new call (iOS 13 and later),
    so under AUTO it does.
    """
    return resend is Resend.NEVER or (resend is Resend.AUTO and device.push_profile == "once")


@attrs.frozen(kw_only=True)
class Series:
    """
    When the pushes of a call are sent, starting at ``started_at``.

    ``once``: the device gets only one push.
    """

    once: bool
    started_at: float
    wait_s: float
    interval_s: float

    def times(self, now: float, *, sent: int) -> list[float]:
        """
        Those that are left at ``now``.

        Of the times that have passed, because the device was looked up slowly, only the
        last is given: several pushes at once wake no phone better than one.

        :param sent: how many were sent by a daemon that has died since.
        """
        times = self._all()[sent:]
        passed = sum(at <= now for at in times)
        return times[max(0, passed - 1) :]

    def due(self, now: float) -> int:
        """How many are due at ``now``."""
        return sum(at <= now for at in self._all())

    def _all(self) -> list[float]:
        count = 1 if self.once else max(1, int(self.wait_s / self.interval_s + 1e-9) - 1)
        return [self.started_at + number * self.interval_s for number in range(count)]


def backoff_s(failures: int, spread: float) -> float:
    """
    How long to wait after the ``failures``-th temporary failure of one push in a row.

    :param spread: a random number in 0..1, so that pushes that failed together do not
        come back together.
    """
    longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (failures - 1))
    return longest * (0.5 + spread / 2)
