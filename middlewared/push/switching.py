"""
Waiting for a provider that is to replace another one.

The one invariant: the end is reported exactly once, within a bounded time, and never after a
cancellation.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from middlewared.clock import Clock
from middlewared.push.instrumented import InstrumentedProvider

PATIENCE_S = 10.0
"""How long a new provider may take to connect before this is logged."""

REMINDER_S = 60.0
LONGEST_S = 3600.0
"""How long an old provider stays in use while the new one has no connection."""


class Switch:
    """
    Waits until ``provider``, which was started, can push.

    :param app: for the log.
    :param done: called when it can, or when the time is up; possibly at once.
    :ivar over: whether it has been called.
    """

    log = Logger()

    def __init__(
        self, *, app: str, provider: InstrumentedProvider, clock: Clock, done: Callable[[], None]
    ) -> None:
        self.provider = provider
        self.over = False
        self._app = app
        self._clock = clock
        self._done = done
        self._began_at = clock.seconds()
        self._reminder = clock.callLater(PATIENCE_S, self._remind)
        self._waiting = Deferred.fromCoroutine(provider.prepared())
        self._waiting.addCallbacks(self._prepared, self._failed)

    def cancel(self) -> None:
        """Stop waiting, without a report."""
        if not self.over:
            self.over = True
            self._reminder.cancel()
            self._waiting.cancel()

    def _prepared(self, _: None) -> None:
        if not self.over:
            self.over = True
            self._reminder.cancel()
            self.log.info("{app}: the new credentials or settings are in use", app=self._app)
            self._done()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("{app}: waiting for a provider failed", failure, app=self._app)
            self._prepared(None)

    def _remind(self) -> None:
        if self._clock.seconds() - self._began_at >= LONGEST_S:
            self.over = True
            self._waiting.cancel()
            self.log.error("{app}: the old credentials or settings are dropped", app=self._app)
            self._done()
            return
        self._reminder = self._clock.callLater(REMINDER_S, self._remind)
        self.log.error(
            "{app}: no connection with the new credentials or settings ({problem}):"
            " the old ones stay in use",
            app=self._app,
            problem=self.provider.problem,
        )
