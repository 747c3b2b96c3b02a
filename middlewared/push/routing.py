"""
Which provider pushes for which app.

The one invariant: a look-up gives a provider that was started and not yet stopped; one
that a reload took out of use first ends the pushes it has begun.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from twisted.internet.defer import Deferred, DeferredList

from middlewared.background import Background
from middlewared.model import Platform
from middlewared.push.interface import Route
from middlewared.push.metered import MeteredProvider


@attrs.frozen(kw_only=True)
class MeteredRoute(Route):
    """A route whose provider can be retired."""

    provider: MeteredProvider


class RouteTable:
    """The present routes, by app id and platform; implements :class:`~.interface.Routes`."""

    def __init__(self, *, background: Background) -> None:
        self._background = background
        self._routes: Mapping[tuple[str, Platform], MeteredRoute] = {}

    def find(self, app: str, platform: Platform) -> MeteredRoute | None:
        """See :meth:`.interface.Routes.find`."""
        return self._routes.get((app, platform))

    def items(self) -> list[tuple[tuple[str, Platform], MeteredRoute]]:
        """All present routes."""
        return list(self._routes.items())

    def replace(self, routes: Mapping[tuple[str, Platform], MeteredRoute]) -> None:
        """Use ``routes`` from now on: start what is new in it, retire what it lacks."""
        old = {id(route.provider): route.provider for route in self._routes.values()}
        new = {id(route.provider): route.provider for route in routes.values()}
        for key in new.keys() - old.keys():
            new[key].start()
        self._routes = dict(routes)
        for key in old.keys() - new.keys():
            self._background.run(old[key].retire())

    async def stop(self) -> None:
        """Stop all providers at once."""
        routes, self._routes = self._routes, {}
        stops = [Deferred.fromCoroutine(route.provider.stop()) for route in routes.values()]
        await DeferredList(stops, consumeErrors=True)
