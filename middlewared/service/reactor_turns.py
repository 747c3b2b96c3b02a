"""
Where the reactor's turns begin and end.

Twisted has no hook for this, so the reactor's own iteration is replaced: a turn ends when the
reactor waits for ready sockets, and the next begins when it has them. The attributes of
:class:`twisted.internet.epollreactor.EPollReactor` that this needs are private;
tests/test_service_turns.py fails when they are gone.

Twisted's iteration also sets a context for its old log around each event, which costs 4 % of a
call and which no line of ours shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

_log = Logger()


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
    poll, selectables, serve = poller.poll, reactor._selectables, reactor._doReadOrWrite

    def iterate(timeout: float | None) -> None:
        turn_ended()
        most = len(selectables)
        # First without waiting: the duration of a wait does not show whether there was nothing
        # to do, since a process may be stopped in the middle of it.
        ready = poll(0, most)
        idle = not ready
        if idle and timeout != 0:
            ready = poll(-1 if timeout is None else timeout, most)
        turn_began(idle)
        for descriptor, events in ready:
            selectable = selectables.get(descriptor)
            if selectable is not None:  # an earlier event may have closed it
                serve(selectable, descriptor, events)

    reactor.doIteration = iterate
