"""
Simulator: pushes as a provider received them, and what it saw, for assertions and the phones.

The lists keep the latest entries only, so that a long run does not
grow; the counters count all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

_KEPT_FAULTS = 1000


@attrs.frozen
class ReceivedPush:
    """Apple's: broke no rule; ``received_at`` by the reactor's clock, headers in lower case."""

    token: str
    headers: Mapping[str, str]
    payload: Mapping[str, Any]
    environment: str
    connection: int
    stream_id: int
    received_at: float

    @property
    def data(self) -> Mapping[str, Any]:
        """What the app reads."""
        return self.payload


@attrs.frozen
class GooglePush:
    """
    Google's: broke no rule.

    ``protocol`` is "v1", "fcm" or "gcm"; ``ttl_s`` None when not given; ``priority`` as
    received. ``token`` addresses the device: with ``is_fid`` it is the installation id;
    ``dry``: it is only validated, and not delivered. ``connection`` and ``stream_id`` are
    those of HTTP/2; over HTTP/1.1 they are 0.
    """

    protocol: str
    token: str
    data: Mapping[str, str]
    priority: str
    ttl_s: float | None
    received_at: float
    is_fid: bool = False
    analytics_label: str = ""
    dry: bool = False
    connection: int = 0
    stream_id: int = 0


AnyPush: TypeAlias = ReceivedPush | GooglePush
PushT = TypeVar("PushT", bound=AnyPush)


class Record(Generic[PushT]):
    """
    Everything one server saw.

    :param listener: notified of each delivered push, at once; may be set later.
    :param keep: how many pushes are remembered.
    """

    def __init__(self, *, listener: Callable[[PushT], None] | None, keep: int) -> None:
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
