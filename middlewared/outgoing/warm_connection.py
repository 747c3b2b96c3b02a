"""
One connection to a host that is kept ready for the next request.

At most one connection is being opened at a time. A host that refuses connections, or closes
them at once, is retried with increasing pauses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from middlewared.backoff import backoff_s
from middlewared.clock import Clock, DelayedCall
from middlewared.waiting import with_fair_timeout

OPENING_TIMEOUT_S = 5.0
SOON_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
GOOD_LIFE_S = 10.0
"""A connection that lasted this long was not a failure."""


@attrs.define(kw_only=True, eq=False, repr=False)
class WarmConnection:
    """
    Opens a connection at the start, when none is left, and when the host was last heard more
    than ``renew_s`` ago, so that no call has to detect that the path failed silently.

    :param open_one: opens a connection for the next request.
    :param heard_at: when the host was last heard on an open connection; None: there is none.
    :param explain: describes a failure in a few words.
    """

    _log = Logger()

    _clock: Clock
    _host: str
    _open_one: Callable[[], Deferred[None]]
    _heard_at: Callable[[], float | None]
    _explain: Callable[[BaseException], str]
    _renew_s: float
    _timer: DelayedCall | None = attrs.field(default=None, init=False)
    _opening: Deferred[None] | None = attrs.field(default=None, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _problem: str | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def start(self) -> None:
        """Open the first connection now."""
        self._check()

    def stop(self) -> None:
        """Open no more connections."""
        self._stopped = True
        self._cancel_timer()
        if self._opening is not None:
            self._opening.cancel()

    def lost(self, lived_s: float) -> None:
        """A connection to the host has ended, ``lived_s`` after it was established."""
        if self._stopped or self._opening is not None or self._heard_at() is not None:
            return
        if lived_s >= GOOD_LIFE_S:
            self._failures = 0
        else:
            self._failures += 1
        self._check_in(self._pause_s())

    def _check(self) -> None:
        self._timer = None
        heard_at = self._heard_at()
        rested_s = None if heard_at is None else self._clock.seconds() - heard_at
        if rested_s is not None and rested_s < self._renew_s:
            self._check_in(self._renew_s - rested_s)
            return
        opening = self._open_one()
        self._opening = opening
        with_fair_timeout(opening, OPENING_TIMEOUT_S, self._clock)
        opening.addCallbacks(self._opened, self._failed)

    def _opened(self, _: None) -> None:
        self._opening = None
        self._report(None)
        self._check_in(self._renew_s)

    def _failed(self, failure: Failure) -> None:
        self._opening = None
        if self._stopped and failure.check(CancelledError):
            return
        self._failures += 1
        self._report(self._explain(cast(BaseException, failure.value)))
        self._check_in(self._pause_s())

    def _pause_s(self) -> float:
        if not self._failures:
            return SOON_S
        return backoff_s(self._failures, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)

    def _check_in(self, delay_s: float) -> None:
        self._cancel_timer()
        if not self._stopped:
            self._timer = self._clock.callLater(delay_s, self._check)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _report(self, problem: str | None) -> None:
        """Log once when it starts to fail, when the reason changes, and when it works again."""
        if problem == self._problem:
            return
        self._problem = problem
        fields: dict[str, Any] = {"host": self._host, "why": problem}
        if problem is None:
            self._log.info("connected to {host} again", **fields)
        else:
            self._log.warn("cannot open a standby connection to {host}: {why}", **fields)
