"""
Which provider pushes for which app.

The one invariant: a look-up returns a provider that was started and not yet stopped; one
that a reload replaced finishes its pushes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import attrs
from twisted.internet.defer import Deferred, DeferredList

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.model import Platform
from middlewared.push.instrumented import InstrumentedProvider
from middlewared.push.interface import Route
from middlewared.push.switching import Switch


@attrs.frozen(kw_only=True)
class InstrumentedRoute(Route):
    """A route whose provider can be retired."""

    provider: InstrumentedProvider


class RouteTable:
    """
    The present routes, by app id and platform; implements :class:`~.interface.Routes`.

    A provider that replaces another is used once it can push; until then the old one is.
    """

    def __init__(self, *, background: Background, clock: Clock) -> None:
        self._background = background
        self._clock = clock
        self._routes: Mapping[tuple[str, Platform], InstrumentedRoute] = {}
        self._wanted: Mapping[tuple[str, Platform], InstrumentedRoute] = {}
        self._switches: dict[tuple[str, Platform], Switch] = {}

    def find(self, app: str, platform: Platform) -> InstrumentedRoute | None:
        """See :meth:`.interface.Routes.find`."""
        return self._routes.get((app, platform))

    def items(self) -> list[tuple[tuple[str, Platform], InstrumentedRoute]]:
        """All present routes."""
        return list(self._routes.items())

    def replace(self, routes: Mapping[tuple[str, Platform], InstrumentedRoute]) -> None:
        """Use ``routes`` from now on: start what is new in them, retire what they lack."""
        before, present = self._providers(), self._routes
        self._wanted = dict(routes)
        self._routes = {
            key: _with_provider(route, present.get(key)) for key, route in routes.items()
        }
        now = self._providers()
        for added in now.keys() - before.keys():
            now[added].start()
        for key, switch in list(self._switches.items()):
            if key not in routes or switch.provider is not routes[key].provider:
                self._switches.pop(key).cancel()
        self._retire_others(before)
        for key, route in routes.items():
            if route.provider is not self._routes[key].provider and key not in self._switches:
                self._begin_switch(key, route.provider)

    async def stop(self) -> None:
        """Stop all providers at once."""
        providers = self._providers()
        self._routes, self._wanted = {}, {}
        for switch in self._switches.values():
            switch.cancel()
        self._switches.clear()
        stops = [Deferred.fromCoroutine(provider.stop()) for provider in providers.values()]
        await DeferredList(stops, consumeErrors=True)

    def _begin_switch(self, key: tuple[str, Platform], provider: InstrumentedProvider) -> None:
        switch = Switch(
            app=key[0], provider=provider, clock=self._clock, done=partial(self._use_new, key)
        )
        if not switch.over:
            self._switches[key] = switch

    def _use_new(self, key: tuple[str, Platform]) -> None:
        """Replace the present provider by the new one."""
        before = self._providers()
        self._switches.pop(key, None)
        self._routes = {**self._routes, key: self._wanted[key]}
        self._retire_others(before)

    def _retire_others(self, before: Mapping[int, InstrumentedProvider]) -> None:
        """Retire the providers of ``before`` that are no longer used."""
        for gone in before.keys() - self._providers().keys():
            self._background.run(before[gone].retire())

    def _providers(self) -> dict[int, InstrumentedProvider]:
        """The providers in use and those about to be, by identity."""
        routes = [*self._routes.values(), *self._wanted.values()]
        return {id(route.provider): route.provider for route in routes}


def _with_provider(
    route: InstrumentedRoute, present: InstrumentedRoute | None
) -> InstrumentedRoute:
    """``route`` with the provider that is in use now, if there is one."""
    if present is None or present.provider is route.provider:
        return route
    return attrs.evolve(route, provider=present.provider)
