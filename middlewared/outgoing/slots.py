"""How many connections a client may use at the same time."""

from __future__ import annotations

from twisted.internet.defer import Deferred


class Slots:
    """
    At most ``most`` are held.

    The latest of those that wait is served first: under more load than the peer can take,
    some are then served in time, while a fair queue would serve all too late.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._serving = False
        # Ordered, and quick to remove from.
        self._waiting: dict[Deferred[None], None] = {}

    def acquire(self) -> Deferred[None]:
        """Fires when the caller has a slot; cancelling leaves the queue."""
        turn: Deferred[None] = Deferred(self._waiting.pop)
        self._waiting[turn] = None
        self._serve()
        return turn

    def release(self) -> None:
        """Give a slot back."""
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        # A callback may give its slot back at once, inside this method. The loop then serves
        # the next: a recursion as deep as the queue would exceed the limit.
        if self._serving:
            return
        self._serving = True
        while self._waiting and self._free:
            self._free -= 1
            turn, _ = self._waiting.popitem()
            turn.callback(None)
        self._serving = False
