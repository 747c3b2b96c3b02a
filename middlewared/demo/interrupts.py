"""
Ctrl-C, for work that must clean up.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def first_interrupt(reactor: Any, end: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """
    Call ``end`` in the reactor at the first SIGINT or SIGTERM; later ones do nothing.

    :return: gives whether there was one.
    """
    seen: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        if not seen:
            seen.append(number)
            reactor.callFromThread(end)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
