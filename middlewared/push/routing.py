"""
Which provider pushes for which app.

A look-up returns a provider that was started and not yet stopped; one that a reload
replaced finishes its pushes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.model import Platform
from middlewared.push.instrumented import InstrumentedProvider
from middlewared.push.interface import Route

FIRST_REPORT_S = 10.0
"""How long a new provider may take to connect before this is logged."""

REPORT_EVERY_S = 60.0
MAX_REPLACEMENT_S = 3600.0
"""How long an old provider stays in use while the new one has no connection."""


@attrs.frozen(kw_only=True)
class InstrumentedRoute(Route):
    """A route whose provider can be retired."""

    provider: InstrumentedProvider


class ProviderReplacement:
    """
    Waits until ``provider``, which was started, can push and so replace another one.

    The end is reported exactly once, within a bounded time, and never after ``cancel``.

    :param app: for the log.
    :param on_end: called when the provider can push, or when the time is up; maybe at once.
    :ivar over: whether the replacement has ended or was cancelled.
    """

    log = Logger()

    def __init__(
        self, *, app: str, provider: InstrumentedProvider, clock: Clock, on_end: Callable[[], None]
    ) -> None:
        self.provider = provider
        self.over = False
        self._app = app
        self._clock = clock
        self._on_end = on_end
        self._began_at = clock.seconds()
        self._report_timer = clock.callLater(FIRST_REPORT_S, self._report)
        self._waiting = Deferred.fromCoroutine(provider.prepared())
        self._waiting.addCallbacks(self._prepared, self._failed)

    def cancel(self) -> None:
        """Stop waiting, without a report."""
        if not self.over:
            self.over = True
            self._report_timer.cancel()
            self._waiting.cancel()

    def _prepared(self, _: None) -> None:
        if not self.over:
            self.over = True
            self._report_timer.cancel()
            self.log.info("{app}: the new credentials or settings are in use", app=self._app)
            self._on_end()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("{app}: waiting for a provider failed", failure, app=self._app)
            self._prepared(None)

    def _report(self) -> None:
        if self._clock.seconds() - self._began_at >= MAX_REPLACEMENT_S:
            self.over = True
            self._waiting.cancel()
            self.log.error("{app}: the old credentials or settings are dropped", app=self._app)
            self._on_end()
            return
        self._report_timer = self._clock.callLater(REPORT_EVERY_S, self._report)
        self.log.error(
            "{app}: no connection with the new credentials or settings ({problem}):"
            " the old ones stay in use",
            app=self._app,
            problem=self.provider.problem,
        )


class RouteTable:
    """
    The current routes, by app id and platform; implements :class:`~.interface.Routes`.

    A new provider is used once it can push; until then the one it replaces is.
    """

    def __init__(self, *, background: Background, clock: Clock) -> None:
        self._background = background
        self._clock = clock
        self._routes: Mapping[tuple[str, Platform], InstrumentedRoute] = {}
        self._configured: Mapping[tuple[str, Platform], InstrumentedRoute] = {}
        self._replacements: dict[tuple[str, Platform], ProviderReplacement] = {}

    def find(self, app: str, platform: Platform) -> InstrumentedRoute | None:
        """See :meth:`.interface.Routes.find`."""
        return self._routes.get((app, platform))

    def replace(self, routes: Mapping[tuple[str, Platform], InstrumentedRoute]) -> None:
        """Use ``routes`` from now on: start their new providers, retire the unused ones."""
        before, current = self._providers(), self._routes
        self._configured = dict(routes)
        self._routes = {
            key: _with_provider(route, current.get(key)) for key, route in routes.items()
        }
        now = self._providers()
        for added in now.keys() - before.keys():
            self._background.run(now[added].start())
        for key, replacement in list(self._replacements.items()):
            if key not in routes or replacement.provider is not routes[key].provider:
                self._replacements.pop(key).cancel()
        self._retire_unused(before)
        for key, route in routes.items():
            if route.provider is not self._routes[key].provider and key not in self._replacements:
                self._begin_replacement(key, route.provider)

    async def stop(self) -> None:
        """Stop all providers at once."""
        providers = self._providers()
        self._routes, self._configured = {}, {}
        for replacement in self._replacements.values():
            replacement.cancel()
        self._replacements.clear()
        stops = [Deferred.fromCoroutine(provider.stop()) for provider in providers.values()]
        await DeferredList(stops, consumeErrors=True)

    def _begin_replacement(self, key: tuple[str, Platform], provider: InstrumentedProvider) -> None:
        replacement = ProviderReplacement(
            app=key[0], provider=provider, clock=self._clock, on_end=partial(self._use_new, key)
        )
        if not replacement.over:
            self._replacements[key] = replacement

    def _use_new(self, key: tuple[str, Platform]) -> None:
        before = self._providers()
        self._replacements.pop(key, None)
        self._routes = {**self._routes, key: self._configured[key]}
        self._retire_unused(before)

    def _retire_unused(self, before: Mapping[int, InstrumentedProvider]) -> None:
        for gone in before.keys() - self._providers().keys():
            self._background.run(before[gone].retire())

    def _providers(self) -> dict[int, InstrumentedProvider]:
        """The providers in use and those that will be, by identity."""
        routes = [*self._routes.values(), *self._configured.values()]
        return {id(route.provider): route.provider for route in routes}


def _with_provider(
    route: InstrumentedRoute, current: InstrumentedRoute | None
) -> InstrumentedRoute:
    """``route`` with the provider that is in use now, if there is one."""
    if current is None or current.provider is route.provider:
        return route
    return attrs.evolve(route, provider=current.provider)
