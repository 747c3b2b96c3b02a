"""
When a device that has not answered gets another push. Pure.
"""

from __future__ import annotations

import attrs

from middlewared.model import Device
from middlewared.push.interface import Resend


def is_pushed_once(device: Device, resend: Resend) -> bool:
    """
    Whether the device gets one push for a call.

    A device with push_profile "once" shows every push as a new call (iOS 13 and later),
    so under AUTO it does.
    """
    return resend is Resend.NEVER or (resend is Resend.AUTO and device.push_profile == "once")


@attrs.frozen(kw_only=True)
class PushSchedule:
    """
    When the pushes of a call are sent: at ``started_at`` and every ``interval_s`` after it.

    There are at least one and at most ``int(wait_s / interval_s) - 1``; with ``once`` there
    is one.
    """

    once: bool
    started_at: float
    wait_s: float
    interval_s: float

    def times(self, now: float, *, sent: int) -> list[float]:
        """
        Those that are left at ``now``.

        Of the times that have passed, because the look-up of the device was slow, only the
        last is given: several pushes at once wake a phone no better than one.

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
