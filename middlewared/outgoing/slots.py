"""
How many connections a client may use at the same time.

The one invariant: the number grows while answers come and shrinks when they do not. A
peer that stalls thus costs a few connections, not one TLS handshake for each request,
and a hiccup does not make a client open hundreds at once.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

FIRST = 32
FEWEST = 4


class Slots:
    """
    Begins with ``FIRST`` and stays between ``FEWEST`` and ``most``.

    Of those who find none free the latest is served first: under more load than the
    peer can take, some are then served in time, where a fair queue would serve everybody
    too late.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._fewest = min(FEWEST, most)
        self._first = self._allowed = min(FIRST, most)
        self._used = 0
        self._answers = 0
        self._serving = False
        # Ordered, and yet quick to leave for those who give up.
        self._waiting: dict[Deferred[None], None] = {}

    @property
    def allowed(self) -> int:
        """How many may be used now."""
        return self._allowed

    def acquire(self) -> Deferred[None]:
        """Fires when a slot is the caller's; cancelling gives up the place in the queue."""
        turn: Deferred[None] = Deferred(self._give_up)
        self._waiting[turn] = None
        self._serve()
        return turn

    def release(self, *, answered: bool) -> None:
        """Give a slot back. ``answered``: whether the peer answered what was asked in it."""
        self._used -= 1
        if not answered:
            self._allowed = max(self._fewest, self._allowed // 2)
            self._answers = 0
        elif self._waiting and self._allowed < self._most:
            self._answers += 1
            # Up to the first number again quickly; beyond it two more for each round of
            # answers, so that a queue which a hiccup left is worked off by the present
            # connections and not by new handshakes.
            if self._allowed < self._first or self._answers >= self._allowed // 2:
                self._answers = 0
                self._allowed += 1
        self._serve()

    def _serve(self) -> None:
        # Who has no use for the slot gives it back at once, inside of this: one loop then
        # serves the next, since a recursion as deep as the queue would end in the middle.
        if self._serving:
            return
        self._serving = True
        try:
            while self._waiting and self._used < self._allowed:
                turn, _ = self._waiting.popitem()
                self._used += 1
                turn.callback(None)
        finally:
            self._serving = False

    def _give_up(self, turn: Deferred[None]) -> None:
        del self._waiting[turn]
