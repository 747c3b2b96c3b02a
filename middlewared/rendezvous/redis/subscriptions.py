"""
The subscriptions of a daemon, over which it gets the messages of scripts and other daemons.

A subscription that connects chooses a master which has none, as long as there is one; it stays
when that is demoted. A subscriber at the node where a script runs gets its message at once.
The nodes pass it on to each other over connections where it may wait 40 ms behind another
message (Nagle's algorithm, RFC 9293 section 3.7.4, with delayed acknowledgements).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from middlewared.rendezvous.redis.cluster_slots import Node, SlotMap
from middlewared.rendezvous.redis.redis_connection import RedisConnection

# Two, so that one may go silent. Not more than four: each brings a copy of every message.
FEWEST = 2
MOST = 4


class Subscriptions:
    """
    The subscribed connections.

    :param slots: has the masters of a Cluster.
    :param seeds: the nodes to listen at while no masters are known.
    :param new_connection: makes one from its name and a function that chooses the node for
        each attempt to connect.
    """

    def __init__(
        self,
        *,
        slots: SlotMap,
        seeds: Sequence[Node],
        new_connection: Callable[[str, Callable[[], Node]], RedisConnection],
    ) -> None:
        self._slots = slots
        self._seeds = seeds
        self._new_connection = new_connection
        self._connections: list[RedisConnection] = []
        self._chosen: list[Node | None] = []

    @property
    def any_connected(self) -> bool:
        """Whether a subscription is connected: messages arrive."""
        return any(each.connected for each in self._connections)

    @property
    def all_connected(self) -> bool:
        """Whether every subscription is connected."""
        return all(each.connected for each in self._connections)

    def open(self, count: int) -> None:
        """Add what is missing to ``count`` subscriptions."""
        while len(self._connections) < count:
            number = len(self._connections)
            self._chosen.append(None)
            name = f"subscription {number + 1}"
            connection = self._new_connection(name, partial(self._choose, number))
            self._connections.append(connection)
            connection.start()

    def release_all(self) -> Sequence[RedisConnection]:
        """Hand over all connections; the caller stops them."""
        connections, self._connections = self._connections, []
        return connections

    def _choose(self, number: int) -> Node:
        """A master at which no other subscription listens, else any such node."""
        others = {node for i, node in enumerate(self._chosen) if i != number}
        nodes = self._slots.nodes | set(self._seeds)
        choice = (self._slots.masters - others) or (nodes - others) or nodes
        chosen = self._chosen[number] = random.choice(list(choice))  # noqa: S311
        return chosen
