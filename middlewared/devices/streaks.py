"""
How the silent streak of a device goes on. Pure.

The one invariant: a streak belongs to a push token: it goes on with the calls to that
token, and begins again with another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from middlewared.devices.queries import identity
from middlewared.model import Device, Wakeup


@attrs.frozen
class Streak:
    """
    What several wake-ups of one device come to.

    ``missed``: how many it did not answer since it answered last, or in all when
    ``answered_at`` is None: then they add to its streak, else they are its streak.
    """

    device: Device
    missed: int
    answered_at: float | None


def merged(wakeups: Sequence[Wakeup]) -> list[Streak]:
    """One streak for each device, in order of the accounts."""
    found: dict[object, Streak] = {}
    for wakeup in wakeups:
        key = identity(wakeup.device)
        before = found.get(key, Streak(wakeup.device, 0, None))
        if wakeup.answered_at is None:
            found[key] = attrs.evolve(before, missed=before.missed + 1)
        else:
            found[key] = Streak(wakeup.device, 0, wakeup.answered_at)
    return sorted(found.values(), key=lambda streak: streak.device.sip_user_id)


def continued(device: Device, replaced: Device | None) -> Device:
    """``device`` as it is stored when it registers in the place of ``replaced``."""
    if replaced is None or identity(replaced) != identity(device):
        return attrs.evolve(device, silent_streak=0, last_answered=None)
    return attrs.evolve(
        device, silent_streak=replaced.silent_streak, last_answered=replaced.last_answered
    )
