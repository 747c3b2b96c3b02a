"""
Which pools connect to the same host: a path that died is dead for all their connections.

The one invariant: only pools that were started and not yet stopped are asked.
"""

from __future__ import annotations

from typing import Protocol


class Provable(Protocol):
    """A pool of connections."""

    def prove(self) -> None:
        """Have each connection give a sign of life soon, or fall silent."""


class Paths:
    """The pools of a process by host; bounded by its configuration."""

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
        """A connection to ``host`` hears nothing: the others are to prove themselves."""
        for pool in list(self._pools.get(host, [])):
            pool.prove()
