"""
Notifications to the service manager: ready, reloading, stopping, alive (sd_notify(3)).

They never block the daemon and never make it fail; without a service manager none are sent.
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
    systemd, or another one that uses its protocol.

    :param environ: NOTIFY_SOCKET is the address of notifications, WATCHDOG_USEC the longest
        time between two signs of life.
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
        """Calls are accepted, or a reload has ended; starts to feed the watchdog."""
        self._notify("READY=1")
        if self._watchdog_s and self._timer is None:
            self._feed()

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it, whether it was accepted or refused."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, longest_s: float) -> None:
        """The daemon begins to stop, which takes ``longest_s`` at most."""
        self._notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(longest_s * 1e6)}")

    def stop(self) -> None:
        """Stop feeding the watchdog."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _feed(self) -> None:
        self._notify("WATCHDOG=1")
        # By the reactor, so that a reactor that hangs is noticed.
        self._timer = self._clock.callLater(self._watchdog_s / 2, self._feed)

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode("ascii"), self._address)
        except OSError as error:
            self.log.warn("cannot notify the service manager: {why}", why=error.strerror)


def _watchdog_usec(environ: Mapping[str, str]) -> int:
    """0: no watchdog, or the watchdog of another process (sd_watchdog_enabled(3))."""
    usec = environ.get("WATCHDOG_USEC", "")
    mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) if mine and usec.isascii() and usec.isdigit() else 0
