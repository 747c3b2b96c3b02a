"""
Calls whose wait has ended without an answer: one that still comes is late, not unknown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from middlewared.clock import Clock
from middlewared.model import Answer, Call, DeviceKind, LateAnswer

REMEMBERED_S = 60.0
MOST_REMEMBERED = 20_000


def ignored(_: LateAnswer) -> None:
    """For a rendezvous whose late answers are of no interest."""


class LateCalls:
    """
    Remembers calls that timed out at this daemon for a minute.

    :param late: notified of each answer to one of them.
    """

    def __init__(self, *, clock: Clock, late: Callable[[LateAnswer], None]) -> None:
        self._clock = clock
        self._late = late
        self._calls: OrderedDict[str, tuple[float, DeviceKind]] = OrderedDict()

    def ended(self, call: Call, kind: DeviceKind | None) -> None:
        """``call`` has timed out; ``kind``: of the device that was woken, None: none was."""
        if kind is None:
            return
        while self._calls:
            _, (deadline, _) = next(iter(self._calls.items()))
            if len(self._calls) < MOST_REMEMBERED and not self._is_forgotten(deadline):
                break
            self._calls.popitem(last=False)
        self._calls[call.unique_key] = (call.deadline, kind)

    def answered(self, unique_key: str, answer: Answer) -> bool:
        """An answer to a call that does not wait; whether it is late."""
        deadline, kind = self._calls.get(unique_key, (0.0, None))
        if kind is None or self._is_forgotten(deadline):
            return False
        self.notify(unique_key, answer, kind, self._clock.seconds() - deadline)
        return True

    def notify(self, unique_key: str, answer: Answer, kind: DeviceKind, late_s: float) -> None:
        """An answer came ``late_s`` seconds after the end of its call's wait."""
        self._late(LateAnswer(unique_key, kind, answer.available, max(0.0, late_s)))

    def _is_forgotten(self, deadline: float) -> bool:
        return self._clock.seconds() - deadline > REMEMBERED_S
