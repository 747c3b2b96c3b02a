"""
Simulator: the steps that any server can take, and which steps a request meets.

A request meets one script at most: the "next" list comes first, then
the script of its own key (a push token, an account), then the one for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

import attrs


@attrs.frozen
class Delay:
    """Wait before the next step."""

    seconds: float


@attrs.frozen
class Deliver:
    """Hand the push to the phone now, ahead of the answer (or in spite of it)."""


@attrs.frozen
class Stall:
    """Never answer; without ``acknowledge_pings`` a whole HTTP/2 connection falls silent."""

    acknowledge_pings: bool = True


@attrs.frozen
class ResetConnection:
    """TCP reset instead of an answer."""


@attrs.frozen
class HangUp:
    """Close the connection cleanly, after everything written."""


StepT = TypeVar("StepT")


class Scripts(Generic[StepT]):
    """The orders that a test gave."""

    def __init__(self) -> None:
        self._next: deque[tuple[StepT, ...]] = deque()
        self._by_key: dict[str, tuple[StepT, ...]] = {}
        self._for_all: tuple[StepT, ...] = ()

    def for_token(self, token: str, *steps: StepT) -> None:
        """Let every request about ``token`` meet ``steps``; without steps: forget it."""
        if steps:
            self._by_key[token] = steps
        else:
            self._by_key.pop(token, None)

    def for_next(self, count: int, *steps: StepT) -> None:
        """Let the next ``count`` requests that have no earlier order meet ``steps``."""
        self._next.extend([steps] * count)

    def for_all(self, *steps: StepT) -> None:
        """Let every request that has no other order meet ``steps``; without: forget it."""
        self._for_all = steps

    def clear(self) -> None:
        """Forget all scripts."""
        self._for_all = ()
        self._next.clear()
        self._by_key.clear()

    def take(self, key: str) -> Iterable[StepT]:
        """The steps for a request that has just arrived."""
        return self._next.popleft() if self._next else self._by_key.get(key, self._for_all)
