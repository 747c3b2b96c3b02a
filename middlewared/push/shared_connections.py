"""Connections that several apps use: those with the same credential at the same server."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar
from weakref import WeakValueDictionary


class Shareable(Protocol):
    """Connections that end when their last app has gone."""

    @property
    def usable(self) -> bool:
        """Whether they can be started, or used by another app."""


T = TypeVar("T", bound=Shareable)


class SharedConnections(Generic[T]):
    """The connections in use in this process, by the key that apps must share to use them."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Hashable, T] = WeakValueDictionary()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Those that other apps use already, or new ones."""
        connections = self._known.get(key)
        if connections is None or not connections.usable:
            connections = self._known[key] = make()
        return connections
