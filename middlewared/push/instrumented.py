"""
A provider whose pushes are counted and timed.

The one invariant: every requested push is counted once, with its verdict; a bug of the
provider counts as one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from middlewared.clock import Clock
from middlewared.metrics import Metrics
from middlewared.model import Platform
from middlewared.push.interface import Push, PushProvider, PushResult, Rejected

RETIRE_S = 30.0

Judged: TypeAlias = Callable[[str, Platform, PushResult], None]
"""Notified of the verdict on a push of an app on a platform."""


@runtime_checkable
class Preparing(Protocol):
    """A provider that cannot push before it has a connection."""

    async def prepared(self) -> None:
        """Wait for the first connection."""

    @property
    def problem(self) -> str:
        """Why there is none yet, in a few words."""


class InstrumentedProvider:
    """
    Wraps the provider of one app; retires it without cutting off a push.

    :param judged: notified of every verdict, before the push's sender is.
    """

    log = Logger()

    def __init__(
        self,
        *,
        provider: PushProvider,
        clock: Clock,
        metrics: Metrics,
        app: str,
        platform: Platform,
        judged: Judged = lambda *_: None,
    ) -> None:
        self.provider = provider
        self._judged = judged
        self._clock = clock
        self._metrics = metrics
        self._app = app
        self._platform = platform
        self._in_flight = 0
        self._idle: Deferred[None] | None = None

    def start(self) -> None:
        """See :meth:`.interface.PushProvider.start`."""
        self.provider.start()

    async def prepared(self) -> None:
        """Wait until the provider, which was started, can push."""
        if isinstance(self.provider, Preparing):
            await self.provider.prepared()

    @property
    def problem(self) -> str:
        """Why it cannot push yet, in a few words."""
        return self.provider.problem if isinstance(self.provider, Preparing) else ""

    async def stop(self) -> None:
        """See :meth:`.interface.PushProvider.stop`."""
        await self.provider.stop()

    async def retire(self) -> None:
        """Stop as soon as no push is in flight, ``RETIRE_S`` later at the latest."""
        if self._in_flight:
            idle: Deferred[None] = Deferred()
            self._idle = idle
            timer = self._clock.callLater(RETIRE_S, self._now_idle)
            try:
                await idle
            except CancelledError:
                self._idle = None  # The daemon ends.
            if timer.active():
                timer.cancel()
        await self.stop()

    async def send(self, push: Push) -> PushResult:
        """See :meth:`.interface.PushProvider.send`."""
        began_at = self._clock.seconds()
        self._in_flight += 1
        try:
            result = await self.provider.send(push)
        except CancelledError:
            raise
        except Exception:
            self.log.failure(
                "a push of {app} on {platform} failed",
                app=self._app,
                platform=self._platform.value,
            )
            result = Rejected("internal error")
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._now_idle()
        took_s = max(0.0, self._clock.seconds() - began_at)
        self._metrics.push_sent(self._app, self._platform, result, took_s)
        self._judged(self._app, self._platform, result)
        return result

    def _now_idle(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.callback(None)
