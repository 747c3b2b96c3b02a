"""
A real daemon in a process of its own, for programs that play its peers.

When ``stop`` has returned the process is gone.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from middlewared.background import shielded

READY = re.compile(r"middlewared ready ([^\"\n]*)")  # as text, or in JSON
LOG_LIMIT = 1 << 20
CHECKOUT = Path(__file__).parent.parent.parent


class DaemonFailed(Exception):
    """The process ended before it was ready; the text is what it had printed."""


class _Output(ProcessProtocol):
    """Collects what the process prints, and notices that it is ready or gone."""

    def __init__(self) -> None:
        self.text = ""
        self.listener: Callable[[str], None] | None = None
        self._unfinished = ""
        self.ready: Deferred[dict[str, str]] = Deferred()
        self.exited: Deferred[int] = Deferred()
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        text = data.decode(errors="replace")
        self.text = (self.text + text)[-LOG_LIMIT:]
        if self.listener is not None:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
            for line in lines:
                self.listener(line)
        match = None if self.ready.called else READY.search(self.text)
        if match and self.text.endswith("\n"):
            words = (word.partition("=") for word in match[1].split())
            self.ready.callback({name: address for name, _, address in words})

    errReceived = outReceived

    def processExited(self, reason: Failure) -> None:
        self.exited.callback(_status(reason))

    def processEnded(self, reason: Failure) -> None:
        if not self.ready.called:
            self.ready.errback(DaemonFailed(self.text))
        self.ended.callback(_status(reason))


def _status(reason: Failure) -> int:
    value: Any = reason.value
    return int(-value.signal if value.signal else value.exitCode)


@attrs.define(kw_only=True, eq=False, repr=False)
class DaemonProcess:
    """
    ``twistd -n middlewared`` with a configuration file.

    :param config: the ini file.
    :param environ: added to the environment.
    :param sockets: listening sockets, passed as systemd does, named ``socket0`` and so on
        (sd_listen_fds_with_names(3)).
    """

    _reactor: Any
    _config: Path
    _environ: Mapping[str, str] = attrs.field(factory=dict)
    _sockets: Sequence[socket.socket] = ()
    _output: _Output = attrs.field(factory=_Output, init=False)
    _process: Any = attrs.field(default=None, init=False)
    addresses: Mapping[str, str] = attrs.field(factory=dict, init=False)

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._output.text

    def follow(self, listener: Callable[[str], None]) -> None:
        """Pass each line on that it prints from now on."""
        self._output.listener = listener

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.pid)

    def url(self, path: str, face: str = "http") -> str:
        """The address of ``path`` at one of its faces."""
        return f"http://{self.addresses[face]}{path}"

    async def start(self, timeout_s: float = 60.0) -> None:
        """
        Start it and wait until it accepts calls.

        :raises DaemonFailed: it ended instead, or did not get ready in time.
        """
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        command += ["-n", "--pidfile=", "middlewared", "--config", str(self._config)]
        path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
        environ = {**os.environ, "PYTHONPATH": path, **self._environ}
        if self._sockets:
            # LISTEN_PID must be the daemon's own, which is unknown before it runs.
            command = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *command]
            environ["LISTEN_FDS"] = str(len(self._sockets))
            environ["LISTEN_FDNAMES"] = ":".join(f"socket{n}" for n in range(len(self._sockets)))
        self._process = self._reactor.spawnProcess(
            self._output,
            command[0],
            command,
            env=environ,
            path=str(self._config.parent),
            childFDs={
                **dict(enumerate("wrr")),
                **{3 + place: each.fileno() for place, each in enumerate(self._sockets)},
            },
        )
        timer = self._reactor.callLater(timeout_s, self.signal, signal.SIGKILL)
        try:
            self.addresses = await self._output.ready
        finally:
            if timer.active():
                timer.cancel()

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(number)

    def stop_reading(self) -> None:
        """Let what it prints from now on lie in the pipe."""
        self._process.pauseProducing()

    def resume_reading(self) -> None:
        """Read what it prints again."""
        self._process.resumeProducing()

    async def exited(self) -> int:
        """Wait for its exit, whether what it printed has been read or not; to be asked once."""
        return await self._output.exited

    async def ended(self) -> int:
        """Wait for its end: the exit code, or minus the signal that ended it."""
        return await shielded(self._output.ended)

    async def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and SIGKILL if that does not help; gives what ``ended`` gives."""
        if self._process is None:
            return 0
        self.signal(signal.SIGTERM)
        timer = self._reactor.callLater(timeout_s, self.signal, signal.SIGKILL)
        status = await self.ended()
        if timer.active():
            timer.cancel()
        return status
