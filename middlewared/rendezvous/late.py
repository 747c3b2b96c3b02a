"""
Calls that timed out recently, so that an answer to one is known to be late.

Which calls these are, :meth:`.held_calls.HeldCalls.settle` decides: those that timed out after a
device was woken here. With Redis, ``TIME_OUT``, ``TIMED_OUT`` and ``ANSWER`` of
``redis/lua_scripts.py`` keep them (``redis/expiries.py`` and ``redis/answers.py`` run these), and
:class:`LateCalls` serves while Redis is away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import attrs

from middlewared.clock import Clock
from middlewared.model import Answer, DeviceKind, LateAnswer, SipUserId

REMEMBERED_S = 60.0
"""
How long after its time-out an answer to a call is late, and not unknown.

Code and tests follow it, in Redis too. All daemons must agree, since lateness is counted from
what is left of the record there: a change belongs in CHANGELOG.md. docs/pushes.md and
docs/metrics.md name the figure, and the last of ``_LATE_BUCKETS_S`` in ``metrics/events.py``
should reach it.
"""

MOST_REMEMBERED = 20_000
"""A bound of memory only: this many time-outs in a minute are an outage."""


def ignored(_: LateAnswer) -> None:
    """Ignore a late answer."""


@attrs.frozen
class WokenDevice:
    """The account and kind of the device that was woken for a call."""

    sip_user_id: SipUserId
    kind: DeviceKind


class LateCalls:
    """
    Remembers for :data:`REMEMBERED_S` each call that timed out at this daemon.

    Above :data:`MOST_REMEMBERED` the oldest are forgotten.

    :param late: notified of each answer to one of them.
    """

    def __init__(self, *, clock: Clock, late: Callable[[LateAnswer], None]) -> None:
        self._clock = clock
        self._late = late
        self._calls: OrderedDict[str, tuple[float, WokenDevice]] = OrderedDict()

    def add(self, unique_key: str, woken: WokenDevice) -> None:
        """A call for which a device was woken has timed out."""
        while self._calls:
            _, (timed_out_at, _) = next(iter(self._calls.items()))
            if len(self._calls) < MOST_REMEMBERED and not self._is_forgotten(timed_out_at):
                break
            self._calls.popitem(last=False)
        self._calls[unique_key] = (self._clock.seconds(), woken)

    def has(self, unique_key: str) -> bool:
        """Whether an answer to the call would be late."""
        return self._find(unique_key) is not None

    def answered(self, unique_key: str, answer: Answer) -> bool:
        """Report an answer to a call that does not wait if it is late; returns whether it is."""
        known = self._find(unique_key)
        if known is None:
            return False
        timed_out_at, woken = known
        self.report(unique_key, answer, woken, self._clock.seconds() - timed_out_at)
        return True

    def report(self, unique_key: str, answer: Answer, woken: WokenDevice, late_s: float) -> None:
        """Report an answer that came ``late_s`` seconds after its call had timed out."""
        late_s = max(0.0, late_s)
        self._late(LateAnswer(unique_key, woken.sip_user_id, woken.kind, answer.available, late_s))

    def _find(self, unique_key: str) -> tuple[float, WokenDevice] | None:
        known = self._calls.get(unique_key)
        return None if known is None or self._is_forgotten(known[0]) else known

    def _is_forgotten(self, timed_out_at: float) -> bool:
        return self._clock.seconds() - timed_out_at > REMEMBERED_S
