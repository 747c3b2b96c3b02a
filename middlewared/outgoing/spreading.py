"""
Spreading connections over all addresses of a name.

The addresses are those of the resolver, starting with its preferred family; only the order
within a family is random.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest
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
    """
    ``addresses``, alternating between families, so that a family without connectivity costs
    no more than one attempt (RFC 8305, section 4). Within a family the order is random.
    """
    families: dict[type[IAddress], list[IAddress]] = {}
    for address in addresses:
        families.setdefault(type(address), []).append(address)
    shuffled = [random.sample(each, len(each)) for each in families.values()]
    turns = zip_longest(*shuffled)
    return [address for turn in turns for address in turn if address is not None]
