"""
Which provider pushes for which app.

A look-up returns a provider that was started and not yet stopped; one that a reload
replaced finishes its pushes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from middlewared.background import Background
from middlewared.clock import Clock, DelayedCall
from middlewared.model import Platform
from middlewared.push.instrumented import InstrumentedProvider
from middlewared.push.interface import Route

FIRST_REPORT_S = 10.0
"""How long a new provider may take to connect before this is logged."""

REPORT_EVERY_S = 60.0
MAX_REPLACEMENT_S = 3600.0
"""How long an old provider stays in use while the new one has no connection."""
BETWEEN_REPLACEMENTS_S = 0.005
"""
Providers are replaced one after another: each opens connections, and calls need the event loop
meanwhile.
"""


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
        self._started: dict[int, InstrumentedProvider] = {}
        self._outdated: deque[tuple[str, Platform]] = deque()
        """Routes whose new provider has not been started yet."""
        self._timer: DelayedCall | None = None
        self._replacements: dict[tuple[str, Platform], ProviderReplacement] = {}

    def find(self, app: str, platform: Platform) -> InstrumentedRoute | None:
        """See :meth:`.interface.Routes.find`."""
        return self._routes.get((app, platform))

    def replace(self, routes: Mapping[tuple[str, Platform], InstrumentedRoute]) -> None:
        """
        Use ``routes`` from now on: start the providers of new apps, retire the unused ones, and
        begin to replace the others.
        """
        current, self._configured = self._routes, dict(routes)
        self._routes = {
            key: _with_provider(route, current.get(key)) for key, route in routes.items()
        }
        for route in self._routes.values():
            self._start(route.provider)
        for key, replacement in list(self._replacements.items()):
            if key not in routes or replacement.provider is not routes[key].provider:
                self._replacements.pop(key).cancel()
        self._outdated = deque(
            key
            for key, route in routes.items()
            if route.provider is not self._routes[key].provider and key not in self._replacements
        )
        self._cancel_timer()
        self._replace_next()

    async def stop(self) -> None:
        """Stop all providers at once."""
        providers, self._started = self._started, {}
        self._routes, self._configured = {}, {}
        self._outdated.clear()
        self._cancel_timer()
        for replacement in self._replacements.values():
            replacement.cancel()
        self._replacements.clear()
        stops = [Deferred.fromCoroutine(provider.stop()) for provider in providers.values()]
        await DeferredList(stops, consumeErrors=True)

    def _replace_next(self) -> None:
        """Begin one replacement, and the next one a moment later; retire after the last one."""
        self._timer = None
        if self._outdated:
            self._begin_replacement(self._outdated.popleft())
        if self._outdated:
            self._timer = self._clock.callLater(BETWEEN_REPLACEMENTS_S, self._replace_next)
        else:
            self._retire_unused()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _begin_replacement(self, key: tuple[str, Platform]) -> None:
        provider = self._configured[key].provider
        self._start(provider)
        replacement = ProviderReplacement(
            app=key[0], provider=provider, clock=self._clock, on_end=partial(self._use_new, key)
        )
        if not replacement.over:
            self._replacements[key] = replacement

    def _use_new(self, key: tuple[str, Platform]) -> None:
        self._replacements.pop(key, None)
        self._routes = {**self._routes, key: self._configured[key]}
        self._retire_unused()

    def _start(self, provider: InstrumentedProvider) -> None:
        if id(provider) not in self._started:
            self._started[id(provider)] = provider
            self._background.run(provider.start())

    def _retire_unused(self) -> None:
        """
        Retire them once all new providers are started, which may share connections with them:
        connections that no started provider uses are closed for good.
        """
        if self._outdated:
            return
        used = {id(r.provider) for r in (*self._routes.values(), *self._configured.values())}
        for gone in self._started.keys() - used:
            self._background.run(self._started.pop(gone).retire())


def _with_provider(
    route: InstrumentedRoute, current: InstrumentedRoute | None
) -> InstrumentedRoute:
    """``route`` with the provider that is in use now, if there is one."""
    if current is None or current.provider is route.provider:
        return route
    return attrs.evolve(route, provider=current.provider)
