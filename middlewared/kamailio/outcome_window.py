"""
Outcomes on their way to a Kamailio: each is sent until Kamailio has confirmed it.

evapi reads into a buffer of 32 KiB. A netstring that is cut within its length, by the end of
that buffer or of a TCP segment, costs evapi everything that it has read (evapi_dispatch.c,
Kamailio 5.6 to 6.0). So only a few outcomes are under way at a time, and what is not
confirmed is sent again; Kamailio takes the first of several.

The invariant: until ``stop``, an outcome that was sent and not confirmed is in ``_under_way``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from middlewared.clock import Clock
from middlewared.waiting import FairCall

MOST_UNDER_WAY = 64
"""Of at most 160 bytes each: less than half of evapi's buffer."""
REPEAT_S = 0.25
"""Kamailio confirms within a few milliseconds."""


@attrs.define(kw_only=True, eq=False, repr=False)
class OutcomeWindow:
    """
    :param send: sends messages, in one write.

    Bounded by the calls that the daemon holds; a Kamailio that confirms nothing is disconnected
    by its connection's heartbeat.
    """

    _clock: Clock
    _send: Callable[[list[bytes]], None]
    _under_way: dict[str, bytes] = attrs.field(factory=dict, init=False)
    _waiting: deque[tuple[str, bytes]] = attrs.field(factory=deque, init=False)
    _repeating: FairCall | None = attrs.field(default=None, init=False)

    def add(self, call: str, message: bytes) -> None:
        """Send the outcome of ``call`` now, or when others have been confirmed."""
        if len(self._under_way) >= MOST_UNDER_WAY:
            self._waiting.append((call, message))
            return
        self._under_way[call] = message
        self._send([message])
        self._repeat_later()

    def confirmed(self, call: str) -> None:
        """Kamailio has the outcome of ``call``; harmless when repeated."""
        if self._under_way.pop(call, None) is None or not self._waiting:
            return
        following, message = self._waiting.popleft()
        self._under_way[following] = message
        self._send([message])

    def stop(self) -> None:
        """Send nothing more."""
        repeating, self._repeating = self._repeating, None
        if repeating is not None:
            repeating.cancel()
        self._under_way.clear()
        self._waiting.clear()

    def _repeat_later(self) -> None:
        if self._repeating is None and self._under_way:
            sent = frozenset(self._under_way)
            self._repeating = FairCall(self._clock, REPEAT_S, self._repeat, sent)

    def _repeat(self, sent: frozenset[str]) -> None:
        self._repeating = None
        late = [self._under_way[call] for call in sent if call in self._under_way]
        if late:
            self._send(late)
        self._repeat_later()
