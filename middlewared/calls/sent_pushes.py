"""
The pushes of one call: how many may still arrive, and all of them for the history.

A call may end before the result of its last push arrives. Each push that was sent is in flight
until it is in the list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import attrs

from middlewared.clock import Clock
from middlewared.push.interface import CallPush, PushProvider, PushResult
from middlewared.rendezvous.interface import Waiter


class SentPush(NamedTuple):
    """A push that began at ``at`` and had its result ``took_s`` later."""

    attempt: int
    at: float
    took_s: float
    result: PushResult


class SentPushes:
    """
    :ivar all: those that have a result, in the order of their results.
    :ivar in_flight: how many have none yet.
    """

    __slots__ = ("_quiet", "all", "in_flight")

    def __init__(self) -> None:
        self.all: list[SentPush] = []
        self.in_flight = 0
        self._quiet: Callable[[], None] | None = None

    async def send(self, push: CallPush, provider: PushProvider, clock: Clock) -> PushResult:
        """Send ``push`` through ``provider``."""
        began_at = clock.seconds()
        self.in_flight += 1
        try:
            result = await provider.send(push)
            took_s = max(0.0, clock.seconds() - began_at)
            self.all.append(SentPush(push.attempt, began_at, took_s, result))
            return result
        finally:
            self.in_flight -= 1
            if not self.in_flight and self._quiet is not None:
                quiet, self._quiet = self._quiet, None
                quiet()

    def when_quiet(self, quiet: Callable[[], None]) -> None:
        """Call ``quiet`` once, when none is in flight; the call is over, and sends no more."""
        if self.in_flight:
            self._quiet = quiet
        else:
            quiet()


@attrs.define(eq=False)
class OutstandingPush:
    """One push, counted in ``waiter.pushes`` while it may reach the phone."""

    _waiter: Waiter
    _counted: bool = False

    def count(self, may_arrive: bool) -> None:
        """Count it, or stop counting it; no effect once the call is over."""
        if self._counted is not may_arrive and not self._waiter.ended.called:
            self._counted = may_arrive
            self._waiter.pushes += 1 if may_arrive else -1
