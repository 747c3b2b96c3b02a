"""
The clock seam: epoch seconds and delayed calls, given by the reactor or by ``task.Clock``.

It restates Twisted's IReactorTime as a typing Protocol, which mypy can check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class DelayedCall(Protocol):
    """What ``callLater`` gives; see :class:`twisted.internet.interfaces.IDelayedCall`."""

    def cancel(self) -> None: ...

    def active(self) -> bool: ...

    def reset(self, secondsFromNow: float) -> None: ...


class Clock(Protocol):
    """Where time comes from."""

    def seconds(self) -> float:
        """Epoch seconds."""

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> Any:
        """Call ``callable`` in ``delay`` seconds; gives a :class:`DelayedCall`."""
