"""
The protocols of a connection to Redis, which notice that the other end has gone silent.

A connection is silent when a reply is due and no byte has arrived for about
:data:`SILENCE_S`. Only time counts in which this process was running and had read the socket:
after a busy turn, or a pause of the whole process, replies lie in the socket's buffer. If
the connection were dropped then, its commands would be repeated, and the overload would last.
One timer checks a connection, however many commands it carries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import txredisapi
from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall

CHECK_INTERVAL_S = 0.1
SILENT_CHECKS = 4
SILENCE_S = CHECK_INTERVAL_S * (SILENT_CHECKS + 1)
QUIET_CHECKS = 5
"""A PING is sent after this many checks without a byte."""


class _Watched:
    """What both protocols add to those of txredisapi."""

    log = Logger()
    _timer: DelayedCall | None = None
    _received_any = False
    _was_due = False
    _silent_checks = 0
    _quiet_checks = 0

    def __init__(self, *, clock: Clock, name: str) -> None:
        # By default the protocol turns "00123" into 123.
        super().__init__(convertNumbers=False)  # type: ignore[call-arg]
        self._clock = clock
        self._name = name

    def connectionMade(self) -> Any:
        self._check_later(CHECK_INTERVAL_S, self._check)
        return super().connectionMade()  # type: ignore[misc]

    def connectionLost(self, why: Any) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        super().connectionLost(why)  # type: ignore[misc]

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        self._received_any = True
        super().dataReceived(data, unpause)  # type: ignore[misc]

    def _check_later(self, delay_s: float, check: Callable[[], None]) -> None:
        self._timer = self._clock.callLater(delay_s, check)

    def _check(self) -> None:
        """
        Count the checks in a row at which a reply was due and nothing had arrived.

        Between two checks the reactor has read its sockets, however late the second one is.
        """
        protocol: Any = self
        due = bool(protocol.replyQueue.waiting)
        silent = due and self._was_due and not self._received_any
        self._silent_checks = self._silent_checks + 1 if silent else 0
        self._quiet_checks = 0 if self._received_any else self._quiet_checks + 1
        self._was_due, self._received_any = due, False
        if self._silent_checks >= SILENT_CHECKS:
            # What has arrived since the sockets were read is read before the next turn.
            self._check_later(0, self._check_again)
            return
        self._check_later(CHECK_INTERVAL_S, self._check)
        if self._quiet_checks >= QUIET_CHECKS and not due:
            protocol.execute_command("PING").addErrback(lambda _: None)

    def _check_again(self) -> None:
        protocol: Any = self
        if self._received_any or not protocol.replyQueue.waiting:
            self._check_later(CHECK_INTERVAL_S, self._check)
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

    :param received: called with each published message.
    """

    def __init__(self, *, clock: Clock, name: str, received: Callable[[str], None]) -> None:
        super().__init__(clock=clock, name=name)
        self._received = received

    def messageReceived(self, pattern: object, channel: object, message: str) -> None:  # noqa: ARG002
        self._received(message)
