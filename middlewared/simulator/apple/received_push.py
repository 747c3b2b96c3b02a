"""Simulator, Apple: a push as it came in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from middlewared.simulator.record import Record


@attrs.frozen
class ReceivedPush:
    """A push that broke no rule; ``received_at`` by the reactor's clock, headers in lower case."""

    token: str
    headers: Mapping[str, str]
    payload: Mapping[str, Any]
    environment: str
    connection: int
    stream_id: int
    received_at: float


AppleRecord: TypeAlias = Record[ReceivedPush]
