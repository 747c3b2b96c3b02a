"""
What the service manager is told: ready, reloading, stopping, alive (sd_notify(3)).

The one invariant: telling never blocks and never fails the daemon; where nobody listens
nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall


class ServiceManager:
    """
    systemd, or who speaks its protocol.

    :param environ: NOTIFY_SOCKET says where, WATCHDOG_USEC how often it must hear of us.
    """

    log = Logger()

    def __init__(self, *, clock: Clock, environ: Mapping[str, str]) -> None:
        self._clock = clock
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of Linux's abstract names.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_usec(environ) / 1e6 if address else 0.0
        self._timer: DelayedCall | None = None

    def ready(self) -> None:
        """Calls are accepted, or a reload has ended; the watchdog is fed from now on."""
        self._tell("READY=1")
        if self._watchdog_s and self._timer is None:
            self._feed()

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it, whether it was taken or refused."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, longest_s: float) -> None:
        """The end begins; it takes ``longest_s`` at most."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(longest_s * 1e6)}")

    def stop(self) -> None:
        """Feed no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _feed(self) -> None:
        self._tell("WATCHDOG=1")
        # In the reactor, so that a reactor that hangs is noticed.
        self._timer = self._clock.callLater(self._watchdog_s / 2, self._feed)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode("ascii"), self._address)
        except OSError as error:
            self.log.warn("cannot notify the service manager: {why}", why=error.strerror)


def _watchdog_usec(environ: Mapping[str, str]) -> int:
    """0: no watchdog, or it is another process's (sd_watchdog_enabled(3))."""
    usec = environ.get("WATCHDOG_USEC", "")
    mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) if mine and usec.isascii() and usec.isdigit() else 0
