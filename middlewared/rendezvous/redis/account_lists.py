"""
The lists in Redis from which a registration learns which calls of its account wait.

A call is listed with its first push, in the background: nothing waits for it, and a call
that no registration answers costs nothing here.
"""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet.task import deferLater

from middlewared.background import Background
from middlewared.errors import RendezvousDown
from middlewared.rendezvous.held_calls import HeldCall
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.shared_calls import SharedCalls


class AccountLists:
    """Lists the calls that are woken here; after trouble with Redis, again."""

    def __init__(
        self,
        *,
        clock: Any,  # deferLater asks for Twisted's zope interface
        background: Background,
        shared: SharedCalls,
        nodes: Nodes,
    ) -> None:
        self._clock = clock
        self._background = background
        self._shared = shared
        self._nodes = nodes

    def pushes_changed(self, held: HeldCall) -> None:
        """The number of its outstanding pushes has changed."""
        if held.call.by_registration and held.pushes and not held.listed_at:
            self._background.run(self._list(held))

    def renewed(self, held: HeldCall) -> None:
        """Redis has its record; it may have lost the list since."""
        if held.listed_at and held.is_woken_here and held.listed_at <= self._nodes.troubled_at:
            self._background.run(self._list(held))

    async def _list(self, held: HeldCall) -> None:
        held.listed_at = self._clock.seconds()
        await deferLater(self._clock, 0)  # the push itself goes first
        with contextlib.suppress(RendezvousDown):  # the next renewal lists it
            await self._shared.list_for_account(held.call)
