"""
Redis Cluster as arithmetic: the slot of a key, the master of a slot, the meaning of a redirect.

Nothing here reads or writes a socket or a clock.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

SLOTS = 16384

Node = tuple[str, int]  # host, port


@attrs.frozen
class Redirect:
    """
    Where a key is instead.

    ``asking``: for this one command (ASK, while the slot moves), else for good (MOVED).
    """

    slot: int
    node: Node
    asking: bool


def slot_of(key: str) -> int:
    """
    The slot of a key: CRC16 of its hash tag, or of the whole key without one.

    Redis Cluster specification, "Key distribution model" and "Hash tags".
    """
    name = key.encode("utf-8", "replace")
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS


def redirect_from(error: str, asked: Node) -> Redirect | None:
    """
    Read ``MOVED 3999 127.0.0.1:6381`` or ``ASK ...``; None: it is neither.

    An empty host means the host that was ``asked``.
    """
    words = error.split()
    if len(words) < 3 or words[0] not in ("MOVED", "ASK"):
        return None
    host, _, port = words[2].rpartition(":")
    if not (words[1].isdecimal() and port.isdecimal()):
        return None
    return Redirect(int(words[1]) % SLOTS, (host or asked[0], int(port)), words[0] == "ASK")


class SlotMap:
    """
    Which master has which slot, as far as the nodes reported it.

    :ivar masters: the nodes that have slots, and those that redirects named since.
    :ivar nodes: all nodes, replicas too.
    """

    def __init__(self) -> None:
        self._masters: list[Node | None] = [None] * SLOTS
        self.masters: frozenset[Node] = frozenset()
        self.nodes: frozenset[Node] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether each slot has a master."""
        return None not in self._masters

    def master_of(self, slot: int) -> Node | None:
        """The master of a slot, None when unknown."""
        return self._masters[slot]

    def moved(self, slot: int, node: Node) -> None:
        """A redirect has named the slot's master."""
        self._masters[slot] = node
        self.masters |= {node}
        self.nodes |= {node}

    def replace(self, reply: Iterable[Sequence[Any]], asked: Node) -> None:
        """
        Use the reply of ``asked`` to CLUSTER SLOTS.

        :raises ValueError, TypeError, IndexError: the reply is malformed.
        """
        masters: list[Node | None] = [None] * SLOTS
        nodes = set()
        for first, last, *master_and_replicas in reply:
            found = [(each[0] or asked[0], int(each[1])) for each in master_and_replicas]
            nodes.update(found)
            masters[int(first) : int(last) + 1] = [found[0]] * (int(last) + 1 - int(first))
        if not nodes or len(masters) != SLOTS:  # an impossible range makes the list grow
            raise ValueError("no slots")
        self._masters = masters
        self.masters = frozenset(node for node in masters if node is not None)
        self.nodes = frozenset(nodes)
