"""
Spreading connections over all addresses of a name.

The one invariant: the addresses are those of the resolver, and its preferred family
stays first; only the order inside a family is left to chance.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer


@implementer(IReactorPluggableNameResolver)
class Spreading:
    """A reactor whose name look-ups give addresses in a different order each time."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.nameResolver = SpreadingResolver(reactor.nameResolver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@implementer(IHostnameResolver)
class SpreadingResolver:
    """Asks another resolver and shuffles what it finds."""

    def __init__(self, resolver: Any) -> None:
        self._resolver = resolver

    def resolveHostName(
        self, resolutionReceiver: Any, hostName: str, *args: object, **kwargs: object
    ) -> IHostResolution:
        """See :class:`twisted.internet.interfaces.IHostnameResolver`."""
        shuffling = _Shuffling(resolutionReceiver)
        resolution: IHostResolution = self._resolver.resolveHostName(
            shuffling, hostName, *args, **kwargs
        )
        return resolution


@implementer(IResolutionReceiver)
class _Shuffling:
    """Keeps the addresses back until all are known."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        self._addresses: list[IAddress] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        self._addresses.append(address)

    def resolutionComplete(self) -> None:
        for address in spread(self._addresses):
            self._receiver.addressResolved(address)
        self._receiver.resolutionComplete()


def spread(addresses: Sequence[IAddress]) -> list[IAddress]:
    """``addresses`` in a random order, the families in the order they came in."""
    families = list(dict.fromkeys(type(address) for address in addresses))
    shuffled = random.sample(addresses, len(addresses))
    return sorted(shuffled, key=lambda address: families.index(type(address)))
