"""
Time-outs that count only the time in which this process was running.

Twisted runs due timers before it reads sockets, and one turn of the reactor lasts as long
as all the work it finds. After a busy turn, or a pause of the whole process (a migrated
virtual machine, a used-up share of a core), a plain ``callLater`` therefore fires although
the reply is already in the socket's buffer, and a peer would be blamed for it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.python.failure import Failure

from middlewared.clock import Clock, DelayedCall

SLICES = 4
"""A pause of the process takes at most one such part from a time-out."""

T = TypeVar("T")


class FairCall:
    """
    A delayed call that counts only time in which the process was running.

    The delay passes in :data:`SLICES` timers, each started when the one before it has
    fired, so the time by which a timer fires late does not count. When the last one has
    fired, the reactor reads its sockets once more before ``function`` is called.
    """

    def __init__(
        self,
        clock: Clock,
        delay_s: float,
        function: Callable[..., object],
        *args: object,
        slices: int = SLICES,
    ) -> None:
        """
        :param slices: 1 for a deadline that applies whatever happens to this process: no
            pause is deducted, but sockets are read before the call.
        """
        self._clock = clock
        self._slice_s = delay_s / slices
        self._left = slices
        self._function = function
        self._args = args
        self._timer: DelayedCall | None = clock.callLater(self._slice_s, self._passed)

    def active(self) -> bool:
        """Whether the function is still to be called."""
        return self._timer is not None

    def cancel(self) -> None:
        """Do not call the function; harmless if it has been called."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _passed(self) -> None:
        self._left -= 1
        if self._left > 0:
            self._timer = self._clock.callLater(self._slice_s, self._passed)
        else:
            # In the next turn; sockets are read before it.
            self._timer = self._clock.callLater(0, self._due)

    def _due(self) -> None:
        self._timer = None
        self._function(*self._args)


def with_fair_timeout(
    waited: Deferred[T],
    timeout_s: float,
    clock: Clock,
    late: Callable[[], T] | None = None,
    *,
    slices: int = SLICES,
) -> Deferred[T]:
    """
    Cancel ``waited`` after ``timeout_s`` seconds, counted as :class:`FairCall` counts them.

    Like ``Deferred.addTimeout``: the result is then a
    :class:`twisted.internet.defer.TimeoutError`, unless the cancelled Deferred gave another.

    :param late: gives the result, or raises the error, that stands for the TimeoutError.
    """
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        waited.cancel()

    timer = FairCall(clock, timeout_s, expire, slices=slices)

    def ended(result: Any) -> Any:
        timer.cancel()
        if expired and isinstance(result, Failure) and result.check(CancelledError):
            if late is not None:
                return late()
            raise TimeoutError(timeout_s, "Deferred")
        return result

    waited.addBoth(ended)
    return waited


class FairTimeouts:
    """
    Time-outs of one length for many waits, with one timer at a time for all of them.

    They count as :class:`FairCall` does; a wait is late after ``timeout_s``, or up to a slice
    more.

    :param late: called with each wait that was not ended in time.
    """

    def __init__(
        self, *, clock: Clock, timeout_s: float, late: Callable[[Deferred[Any]], None]
    ) -> None:
        self._clock = clock
        self._slice_s = timeout_s / SLICES
        self._late = late
        self._slice = 0
        self._waits: dict[Deferred[Any], int] = {}
        """The last slice of each, in order."""
        self._timer: DelayedCall | None = None

    def begin(self, waited: Deferred[Any]) -> None:
        """Count the time of ``waited`` from now on."""
        # The slice that is under way does not count in full.
        self._waits[waited] = self._slice + SLICES + (self._timer is not None)
        if self._timer is None:
            self._timer = self._clock.callLater(self._slice_s, self._passed)

    def end(self, waited: Deferred[Any]) -> None:
        """``waited`` has ended; harmless if its time had not begun, or was up."""
        if self._waits.pop(waited, None) and not self._waits and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _passed(self) -> None:
        self._slice += 1
        first = next(iter(self._waits.values()))
        if first <= self._slice:
            # In the next turn; sockets are read before it.
            self._timer = self._clock.callLater(0, self._expire)
        else:
            self._timer = self._clock.callLater(self._slice_s, self._passed)

    def _expire(self) -> None:
        late = list(takewhile(lambda waited: self._waits[waited] <= self._slice, self._waits))
        for waited in late:
            del self._waits[waited]
        more = bool(self._waits)
        self._timer = self._clock.callLater(self._slice_s, self._passed) if more else None
        for waited in late:
            self._late(waited)
