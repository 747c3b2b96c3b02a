"""One connection to a host that is kept ready for the next request."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.clock import Clock
from middlewared.waiting import with_fair_timeout

OPENING_TIMEOUT_S = 5.0
CHECK_S = 0.5
RETRY_S = 10.0
"""Between two attempts: the host may refuse connections, or close them at once."""


@attrs.define(kw_only=True, eq=False, repr=False)
class WarmConnection:
    """
    Opens a connection when there is none, and when the host was last heard ``renew_s`` ago,
    so that no call has to detect that the path failed silently.

    :param open_one: opens a connection for the next request.
    :param heard_at: when the host was last heard on an open connection; None: there is none.
    :param explain: describes a failure in a few words.
    """

    _log = Logger()

    _clock: Clock
    _host: str
    _open_one: Callable[[], Coroutine[Deferred[Any], Any, object]]
    _heard_at: Callable[[], float | None]
    _explain: Callable[[BaseException], str]
    _renew_s: float
    _running: Deferred[None] | None = attrs.field(default=None, init=False)
    _problem: str | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def start(self) -> None:
        """Open the first connection now."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def stop(self) -> None:
        """Open no more connections."""
        self._stopped = True
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        retry_at = -inf
        while True:
            now, heard_at = self._clock.seconds(), self._heard_at()
            if (heard_at is None or now - heard_at >= self._renew_s) and now >= retry_at:
                await self._open()
                retry_at = self._clock.seconds() + min(RETRY_S, self._renew_s)
            await deferLater(self._clock, CHECK_S)  # type: ignore[arg-type]

    async def _open(self) -> None:
        """Log once when it starts to fail, when the reason changes, and when it works again."""
        opening = Deferred.fromCoroutine(self._open_one())
        try:
            await with_fair_timeout(opening, OPENING_TIMEOUT_S, self._clock)
            problem = None
        except Exception as error:
            if self._stopped:
                raise CancelledError from error
            problem = self._explain(error)
        if problem == self._problem:
            return
        self._problem = problem
        if problem is None:
            self._log.info("connected to {host} again", host=self._host)
        else:
            self._log.warn(
                "cannot open a standby connection to {host}: {why}", host=self._host, why=problem
            )
