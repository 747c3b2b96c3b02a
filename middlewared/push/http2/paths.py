"""
Which pools connect to the same host: a dead path affects the connections of all of them.

The one invariant: only pools that were started and not yet stopped are notified.
"""

from __future__ import annotations

from typing import Protocol


class Provable(Protocol):
    """A pool of connections."""

    def prove(self) -> None:
        """Have each connection show a sign of life soon, or be dropped."""


class Paths:
    """The pools of this process by host; bounded by the configuration."""

    def __init__(self) -> None:
        self._pools: dict[str, list[Provable]] = {}

    def add(self, host: str, pool: Provable) -> None:
        """``pool`` connects to ``host`` from now on."""
        self._pools.setdefault(host, []).append(pool)

    def remove(self, host: str, pool: Provable) -> None:
        """``pool`` is stopped; harmless when it was never added."""
        pools = [each for each in self._pools.pop(host, []) if each is not pool]
        if pools:
            self._pools[host] = pools

    def doubt(self, host: str) -> None:
        """A connection to ``host`` is silent: have all others prove that they are alive."""
        for pool in list(self._pools.get(host, [])):
            pool.prove()
