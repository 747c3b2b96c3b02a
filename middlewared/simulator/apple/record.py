"""
Simulator, Apple: what was seen, for assertions and for the phones.

The one invariant: a push is delivered at most once for each time it was received, and
only if it broke no rule. The lists keep the latest entries only; the counters count all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs


@attrs.frozen
class ReceivedPush:
    """A push as it came in; ``received_at`` in epoch seconds, header names in lower case."""

    token: str
    headers: Mapping[str, str]
    payload: Mapping[str, Any]
    environment: str
    connection: int
    stream_id: int
    received_at: float


class Record:
    """
    Everything one server saw.

    :param listener: told of each delivered push, at once; may be set later.
    :param keep: how many entries each list keeps.
    """

    def __init__(
        self, *, listener: Callable[[ReceivedPush], None] | None = None, keep: int = 10_000
    ) -> None:
        self.listener = listener
        self.received: deque[ReceivedPush] = deque(maxlen=keep)
        """Pushes that broke no rule, whatever their script did to them."""
        self.delivered: deque[ReceivedPush] = deque(maxlen=keep)
        """Pushes that the phone got."""
        self.refused: deque[str] = deque(maxlen=keep)
        """Reasons of the pushes that broke a rule (not those of scripts)."""
        self.violations: deque[str] = deque(maxlen=keep)
        """HTTP/2 errors of the peer, and failed handshakes."""
        self.received_count = 0
        self.delivered_count = 0
        self.connection_count = 0
        self.ping_count = 0

    def receive(self, push: ReceivedPush) -> None:
        """Note a push that broke no rule."""
        self.received_count += 1
        self.received.append(push)

    def deliver(self, push: ReceivedPush) -> None:
        """Hand a push to the phone."""
        self.delivered_count += 1
        self.delivered.append(push)
        if self.listener is not None:
            self.listener(push)
