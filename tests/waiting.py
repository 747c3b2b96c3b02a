"""Waiting for what happens without a notice, in tests."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.task import deferLater


async def until(condition: Callable[[], object]) -> None:
    """Let the reactor run until ``condition`` holds, within the test's own time-out."""
    while not condition():
        await deferLater(reactor, 0.005)
