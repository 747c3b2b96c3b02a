"""
The protocol of a connection to Redis, which notices that the other end has gone silent.

A connection is silent when it owes a reply and has delivered no byte for about
:data:`SILENCE_S`. Only time counts in which this process was running and had read the
connection's socket: after a busy turn, or a pause of the whole process, replies lie in the
socket's buffer, and a connection dropped then would have its work repeated, which makes an
overload permanent. One timer looks after a connection, however many commands it carries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import txredisapi
from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall

LOOK_INTERVAL_S = 0.1
SILENT_LOOKS = 4
SILENCE_S = LOOK_INTERVAL_S * (SILENT_LOOKS + 1)
PING_LOOKS = 5
"""A connection that has delivered nothing for so many looks is sent a PING."""


class _Watched:
    """What both protocols add to those of txredisapi."""

    log = Logger()
    _timer: DelayedCall | None = None
    _heard = False
    _owed = False
    _silent_looks = 0
    _quiet_looks = 0

    def __init__(self, *, clock: Clock, name: str) -> None:
        # The protocol would turn "00123" into 123 by default.
        super().__init__(convertNumbers=False)  # type: ignore[call-arg]
        self._clock = clock
        self._name = name

    def connectionMade(self) -> Any:
        self._look_later(LOOK_INTERVAL_S, self._look)
        return super().connectionMade()  # type: ignore[misc]

    def connectionLost(self, why: Any) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        super().connectionLost(why)  # type: ignore[misc]

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        self._heard = True
        super().dataReceived(data, unpause)  # type: ignore[misc]

    def _look_later(self, delay_s: float, look: Callable[[], None]) -> None:
        self._timer = self._clock.callLater(delay_s, look)

    def _look(self) -> None:
        """
        Count the looks in a row that found the same reply missing and nothing heard.

        Between two looks the reactor has read its sockets, however late the second one is.
        """
        protocol: Any = self
        owes = bool(protocol.replyQueue.waiting)
        silent = owes and self._owed and not self._heard
        self._silent_looks = self._silent_looks + 1 if silent else 0
        self._quiet_looks = 0 if self._heard else self._quiet_looks + 1
        self._owed, self._heard = owes, False
        if self._silent_looks >= SILENT_LOOKS:
            # What has arrived since the sockets were read is read before the next turn.
            self._look_later(0, self._last_look)
            return
        self._look_later(LOOK_INTERVAL_S, self._look)
        if self._quiet_looks >= PING_LOOKS and not owes:
            protocol.execute_command("PING").addErrback(lambda _: None)

    def _last_look(self) -> None:
        protocol: Any = self
        if self._heard or not protocol.replyQueue.waiting:
            self._look_later(LOOK_INTERVAL_S, self._look)
            return
        self.log.warn(
            "redis {name}: no reply for {seconds:.1f} s", name=self._name, seconds=SILENCE_S
        )
        protocol.transport.abortConnection()


class CommandProtocol(_Watched, txredisapi.RedisProtocol):  # type: ignore[misc]  # untyped
    """The protocol of a connection that takes commands."""


class ListenerProtocol(_Watched, txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """
    The protocol of a subscribed connection.

    :param received: gets each published message.
    """

    def __init__(self, *, clock: Clock, name: str, received: Callable[[str], None]) -> None:
        super().__init__(clock=clock, name=name)
        self._received = received

    def messageReceived(self, pattern: object, channel: object, message: str) -> None:  # noqa: ARG002
        self._received(message)
