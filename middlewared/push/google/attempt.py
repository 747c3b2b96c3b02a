"""
One attempt to push: its deadline, its troubles, its line in the log.

The one invariant: an attempt ends with a verdict no later than the push's deadline. Its
own time-out is the peer's: to wait for a connection costs nobody anything, while to give
up and try again would keep the daemon busy just when there is too much to do.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.clock import Clock
from middlewared.outgoing.interface import Dropped, OutgoingFailed, TimedOut, Unwanted
from middlewared.push.interface import (
    CallPush,
    ConfigFault,
    Push,
    PushResult,
    Rejected,
    Temporary,
)
from middlewared.waiting import with_fair_timeout

ATTEMPT_TIMEOUT_S = 2.0
_SAME_LINE_EVERY_S = 60.0
_MOST_LINES_KEPT = 50


class Attempts:
    """Runs the attempts of one app's provider and tells the operator of their troubles."""

    _log = Logger()

    def __init__(self, *, app: str, clock: Clock, timeout_s: float = ATTEMPT_TIMEOUT_S) -> None:
        self._app = app
        self._clock = clock
        self._timeout_s = timeout_s
        self._told: dict[str, float] = {}

    async def run(
        self, push: Push, attempt: Callable[[float], Coroutine[Deferred[Any], Any, PushResult]]
    ) -> PushResult:
        """Run ``attempt``, which is told the peer's seconds; give its verdict or Temporary."""
        left_s = push.deadline - self._clock.seconds()
        if left_s <= 0:
            return Temporary("deadline")
        limit_s = min(left_s, self._timeout_s)
        late = Temporary("deadline" if limit_s == left_s else "timeout")
        running = Deferred.fromCoroutine(self._judged(attempt(limit_s), late))
        # The call's end, which waits for no one; but a verdict that has arrived is read.
        result = await with_fair_timeout(running, left_s, self._clock, _at_deadline, slices=1)
        if result is late and late.reason == "timeout":
            self._tell(f"no answer within {limit_s:.3g} s")
        elif isinstance(result, ConfigFault | Rejected):
            self._tell(result.reason, fault=True)
        return result

    async def _judged(
        self, attempt: Coroutine[Deferred[Any], Any, PushResult], late: Temporary
    ) -> PushResult:
        try:
            return await attempt
        except TimedOut:
            return late
        except Unwanted:
            return Temporary("unwanted")
        except OutgoingFailed as error:
            self._tell(str(error))
            return Temporary("transport", 0.0 if isinstance(error, Dropped) else None)

    def _tell(self, trouble: str, *, fault: bool = False) -> None:
        """One line for each trouble, not one for each push that met it."""
        now = self._clock.seconds()
        if now < self._told.get(trouble, -inf) + _SAME_LINE_EVERY_S:
            return
        if len(self._told) >= _MOST_LINES_KEPT:
            self._told.clear()
        self._told[trouble] = now
        if fault:
            self._log.error("Google refuses pushes of {app}: {why}", app=self._app, why=trouble)
        else:
            self._log.warn("cannot push for {app}: {why}", app=self._app, why=trouble)


def _at_deadline() -> PushResult:
    return Temporary("deadline")


def wanted(push: Push) -> Callable[[], bool] | None:
    """How to ask whether ``push`` is still of use; None: it always is."""
    return push.wanted if isinstance(push, CallPush) else None
