"""
Simulator: what a simulated provider saw, for assertions and for the phones.

The lists keep the latest entries only, so that a long run does not
grow; the counters count all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

PushT = TypeVar("PushT")

_KEPT_FAULTS = 1000


class Record(Generic[PushT]):
    """
    Everything one server saw.

    :param listener: notified of each delivered push, at once; may be set later.
    :param keep: how many pushes are remembered.
    """

    def __init__(
        self, *, listener: Callable[[PushT], None] | None = None, keep: int = 10_000
    ) -> None:
        self.listener = listener
        self.received: deque[PushT] = deque(maxlen=keep)
        """Pushes that broke no rule, regardless of what their script did to them."""
        self.delivered: deque[PushT] = deque(maxlen=keep)
        """Pushes that the phone got."""
        self.refused: deque[str] = deque(maxlen=_KEPT_FAULTS)
        """Reasons of the pushes that broke a rule (not those of scripts)."""
        self.violations: deque[str] = deque(maxlen=_KEPT_FAULTS)
        """Errors of the peer below the push: HTTP/2, and failed handshakes."""
        self.received_count = 0
        self.delivered_count = 0
        self.connection_count = 0
        self.ping_count = 0
        self.reset_count = 0

    def receive(self, push: PushT) -> None:
        """Note a push that broke no rule."""
        self.received_count += 1
        self.received.append(push)

    def deliver(self, push: PushT) -> None:
        """Hand a push to the phone."""
        self.delivered_count += 1
        self.delivered.append(push)
        if self.listener is not None:
            self.listener(push)
