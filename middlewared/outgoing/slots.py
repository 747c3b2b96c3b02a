"""
How many connections a client may use at the same time.

The number grows while answers arrive and shrinks when they do not. A stalled peer thus costs
a few connections, not one TLS handshake for each request, and after a short interruption a
client does not open hundreds at once.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

FIRST = 32
FEWEST = 4


class Slots:
    """
    Begins with ``FIRST`` and stays between ``FEWEST`` and ``most``.

    The latest of those that wait is served first: under more load than the peer can take,
    some are then served in time, while a fair queue would serve all too late.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._fewest = min(FEWEST, most)
        self._first = self._allowed = min(FIRST, most)
        self._used = 0
        self._answers = 0
        self._serving = False
        # Ordered, and quick to remove from.
        self._waiting: dict[Deferred[None], None] = {}

    @property
    def allowed(self) -> int:
        """How many slots may be used now."""
        return self._allowed

    def acquire(self) -> Deferred[None]:
        """Fires when the caller has a slot; cancelling leaves the queue."""
        turn: Deferred[None] = Deferred(self._give_up)
        self._waiting[turn] = None
        self._serve()
        return turn

    def release(self, *, answered: bool) -> None:
        """Give a slot back. ``answered``: whether the peer answered the request in it."""
        self._used -= 1
        if not answered:
            self._allowed = max(self._fewest, self._allowed // 2)
            self._answers = 0
        elif self._waiting and self._allowed < self._most:
            self._answers += 1
            # Quickly up to the first number again; beyond it, two more for each round of
            # answers, so that the queue left by an interruption is served over the existing
            # connections and not over new ones.
            if self._allowed < self._first or self._answers >= self._allowed // 2:
                self._answers = 0
                self._allowed += 1
        self._serve()

    def _serve(self) -> None:
        # A callback may give its slot back at once, inside this method. The loop then serves
        # the next: a recursion as deep as the queue would exceed the limit.
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
