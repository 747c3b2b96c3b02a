"""A provider whose pushes are counted and timed, and which ends its pushes before it stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.clock import Clock
from middlewared.metrics import Metrics
from middlewared.model import Platform
from middlewared.push.interface import Push, PushProvider, PushResult, Rejected

RETIRE_S = 30.0

OnResult: TypeAlias = Callable[[str, Platform, PushResult], None]
"""Gets app, platform and result of a push."""


class InstrumentedProvider(PushProvider):
    """
    Wraps the provider of one app: each requested push is counted once, with its result.

    A bug of the provider counts as the result of its push.

    :param on_result: called with every result, before the sender of the push gets it.
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
        on_result: OnResult = lambda *_: None,
    ) -> None:
        self.provider = provider
        self._on_result = on_result
        self._clock = clock
        self._metrics = metrics
        self._app = app
        self._platform = platform
        self._in_flight = 0
        self._retiring: Deferred[None] | None = None

    @property
    def up(self) -> bool | None:
        """See :meth:`.interface.PushProvider.up`."""
        return self.provider.up

    @property
    def problem(self) -> str:
        """See :meth:`.interface.PushProvider.problem`."""
        return self.provider.problem

    @property
    def credential_expiry(self) -> float | None:
        """See :meth:`.interface.PushProvider.credential_expiry`."""
        return self.provider.credential_expiry

    def connection_states(self) -> Mapping[tuple[str, str], int]:
        """See :meth:`.interface.PushProvider.connection_states`."""
        return self.provider.connection_states()

    async def start(self) -> None:
        """See :meth:`.interface.PushProvider.start`."""
        await self.provider.start()

    async def prepared(self) -> None:
        """See :meth:`.interface.PushProvider.prepared`."""
        await self.provider.prepared()

    async def stop(self) -> None:
        """See :meth:`.interface.PushProvider.stop`."""
        await self.provider.stop()

    async def retire(self) -> None:
        """Stop as soon as no push is in flight, ``RETIRE_S`` later at the latest."""
        if self._in_flight:
            self._retiring = deferLater(self._clock, RETIRE_S)  # type: ignore[arg-type]
            try:
                await self._retiring
            except CancelledError:
                pass  # no push is in flight, or the daemon ends
            finally:
                self._retiring = None
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
            if not self._in_flight and self._retiring is not None:
                self._retiring.cancel()
        took_s = max(0.0, self._clock.seconds() - began_at)
        self._metrics.push_sent(self._app, self._platform, result, took_s)
        self._on_result(self._app, self._platform, result)
        return result
