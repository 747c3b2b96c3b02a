"""
Where a daemon listens for what the others and the scripts tell it.

The one invariant: each subscription that connects chooses a master which has none, as long
as there is one (up to ``MOST``); it stays where it is when that is demoted. What
a script publishes is there at once for who listens at its node; the nodes pass it on to
each other over connections where it may wait 40 ms behind another message (Nagle's
algorithm, RFC 9293 section 3.7.4, with delayed acknowledgements).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from middlewared.rendezvous.redis.cluster_slots import Node, SlotMap
from middlewared.rendezvous.redis.redis_connection import RedisConnection

# Two, so that one may go silent. Each brings a copy of every message, so not too many.
FEWEST = 2
MOST = 4


class Subscriptions:
    """
    The links that listen.

    :param slots: tells the masters of a Cluster.
    :param seeds: where to listen while there are none.
    :param new_link: makes a link from its name and what chooses a node for each connection.
    """

    def __init__(
        self,
        *,
        slots: SlotMap,
        seeds: Sequence[Node],
        new_link: Callable[[str, Callable[[], Node]], RedisConnection],
    ) -> None:
        self._slots = slots
        self._seeds = seeds
        self._new_link = new_link
        self._links: list[RedisConnection] = []
        self._chosen: list[Node | None] = []

    @property
    def any_connected(self) -> bool:
        """Whether anything is heard."""
        return any(link.connected for link in self._links)

    @property
    def all_connected(self) -> bool:
        """Whether everything is heard at once."""
        return all(link.connected for link in self._links)

    def have(self, count: int) -> None:
        """Add what is missing to ``count`` subscriptions."""
        while len(self._links) < count:
            number = len(self._links)
            self._chosen.append(None)
            link = self._new_link(f"subscription {number + 1}", partial(self._choose, number))
            self._links.append(link)
            link.start()

    def take_all(self) -> Sequence[RedisConnection]:
        """Hand all links over, to be stopped."""
        links, self._links = self._links, []
        return links

    def _choose(self, number: int) -> Node:
        """A master at which no other link listens, else any such node."""
        others = {node for i, node in enumerate(self._chosen) if i != number}
        nodes = self._slots.nodes | set(self._seeds)
        choice = (self._slots.masters - others) or (nodes - others) or nodes
        chosen = self._chosen[number] = random.choice(list(choice))  # noqa: S311
        return chosen
