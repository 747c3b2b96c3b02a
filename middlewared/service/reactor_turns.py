"""
Where the reactor's turns begin and end.

Twisted has no hook for this, so the poller is wrapped: a turn ends when the reactor asks for
ready sockets, and the next begins when it has them. ``_poller`` is private to
:class:`twisted.internet.epollreactor.EPollReactor`; tests/test_service_turns.py fails when
it is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

_log = Logger()


class _Poller:
    """An epoll object that notifies of each wait; all but ``poll`` is the object's own."""

    def __init__(
        self, poller: Any, turn_began: Callable[[bool], None], turn_ended: Callable[[], None]
    ) -> None:
        self._poll = poller.poll
        self._turn_began = turn_began
        self._turn_ended = turn_ended
        self.register, self.unregister = poller.register, poller.unregister
        self.modify, self.close, self.fileno = poller.modify, poller.close, poller.fileno

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        self._turn_ended()
        # First without waiting: the duration of a wait does not show whether there was nothing
        # to do, since a process may be stopped in the middle of it.
        ready: list[tuple[int, int]] = self._poll(0, maxevents)
        idle = not ready
        if idle and timeout:
            ready = self._poll(timeout, maxevents)
        self._turn_began(idle)
        return ready


def watch_turns(
    reactor: Any, *, turn_began: Callable[[bool], None], turn_ended: Callable[[], None]
) -> None:
    """
    Call ``turn_ended`` before each wait for sockets and ``turn_began`` after it.

    ``turn_began`` receives whether the reactor was idle: no socket was ready at first.

    A reactor other than Linux's epoll reactor is left alone, with a warning.
    """
    poller = getattr(reactor, "_poller", None)
    if poller is None:
        _log.warn("this reactor does not show its turns: no calls are refused under overload")
        return
    reactor._poller = _Poller(poller, turn_began, turn_ended)
