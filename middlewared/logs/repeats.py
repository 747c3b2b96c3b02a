"""
Counting of repeated lines: what anyone can cause at will does not make the log long.

In a second, at most :data:`MOST_FIRST` lines are logged at once, and one line counts all
others, however many kinds there are.
"""

from __future__ import annotations

from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall

INTERVAL_S = 1.0
MOST_FIRST = 10
MOST_KINDS = 100
MOST_SHOWN = 10


class Repeats:
    """
    Implements :class:`~.interface.RepeatCounter`.

    The first line of a kind is logged at once. The following ones are counted, and reported
    once a second as long as they occur.
    """

    log = Logger()

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._others = 0
        self._first = 0
        self._timer: DelayedCall | None = None
        self._stopped = False

    def count(self, kind: str) -> None:
        """See :meth:`.interface.RepeatCounter.count`."""
        if self.is_first(kind):
            self.log.info("{kind}", kind=kind)

    def is_first(self, kind: str) -> bool:
        """See :meth:`.interface.RepeatCounter.is_first`."""
        counted = self._counts.get(kind)
        if counted is not None:
            self._counts[kind] = counted + 1
            return False
        if self._timer is None and not self._stopped:
            self._timer = self._clock.callLater(INTERVAL_S, self._report)
        if len(self._counts) >= MOST_KINDS:
            self._others += 1
            return False
        first = self._first < MOST_FIRST
        self._first += first
        self._counts[kind] = 0 if first else 1
        return first

    def stop(self) -> None:
        """Report what was counted, and set no more timers."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._report()

    def _report(self) -> None:
        """Report once a second. A kind that was not repeated in it counts as new again."""
        counted = {kind: number for kind, number in self._counts.items() if number}
        others, self._others, self._first, self._timer = self._others, 0, 0, None
        self._counts = dict.fromkeys(counted, 0)
        if not (counted or others):
            return
        self.log.info(
            "{number} more in the last second: {kinds}",
            number=sum(counted.values()) + others,
            kinds=_text(counted, others),
        )
        if not self._stopped:
            self._timer = self._clock.callLater(INTERVAL_S, self._report)


def _text(counted: dict[str, int], others: int) -> str:
    """The most frequent kinds, each with its number."""
    kinds = sorted(counted.items(), key=lambda each: -each[1])
    others += sum(number for _, number in kinds[MOST_SHOWN:])
    shown = [f"{number} {kind}" for kind, number in kinds[:MOST_SHOWN]]
    return "; ".join(shown + ([f"{others} of other kinds"] if others else []))
