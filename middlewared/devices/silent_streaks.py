"""
How the silent streak of a device changes. Pure.

A streak belongs to a push token: calls to that token continue it, another token resets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from middlewared.devices.queries import identity
from middlewared.model import Device, Wakeup


@attrs.frozen
class StreakChange:
    """
    The change that several wake-ups make to the streak of one device.

    ``missed``: how many it has not answered since its last answer; they are its new streak.
    If ``answered_at`` is None, it answered none, and they are added to its streak.
    """

    device: Device
    missed: int
    answered_at: float | None


def merge_wakeups(wakeups: Sequence[Wakeup]) -> list[StreakChange]:
    """One change for each device, ordered by account."""
    found: dict[object, StreakChange] = {}
    for wakeup in wakeups:
        key = identity(wakeup.device)
        before = found.get(key, StreakChange(wakeup.device, 0, None))
        if wakeup.answered_at is None:
            found[key] = attrs.evolve(before, missed=before.missed + 1)
        else:
            found[key] = StreakChange(wakeup.device, 0, wakeup.answered_at)
    account: Callable[[StreakChange], Any] = lambda change: change.device.sip_user_id  # noqa: E731
    return sorted(found.values(), key=account)


def continue_streak(device: Device, replaced: Device | None) -> Device:
    """``device`` as it is stored when its registration replaces ``replaced``."""
    if replaced is None or identity(replaced) != identity(device):
        return attrs.evolve(device, silent_streak=0, last_answered=None)
    return attrs.evolve(
        device, silent_streak=replaced.silent_streak, last_answered=replaced.last_answered
    )
