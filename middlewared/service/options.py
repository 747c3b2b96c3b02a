"""
``twistd middlewared``: its command line, and the service it gives to twistd.

A wrong configuration ends the start with exit code 1 and each problem on its own line,
without a traceback.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.threads import deferToThreadPool
from twisted.python import usage

from middlewared.clock import Clock, measure_monotonically
from middlewared.errors import ConfigError
from middlewared.service.components import Components
from middlewared.service.configuration import read_all
from middlewared.service.daemon import Daemon
from middlewared.service.garbage_collector import FullCollections
from middlewared.service.loaded_files import LoadedFiles
from middlewared.service.open_files import allow_open_files
from middlewared.service.service_manager import ServiceManager

THREAD_TURN_S = 0.0005
"""
How long another thread that computes may keep the interpreter's lock from the event loop. The
loop asks for it again after each system call, of which a call makes a dozen; Python's default
is 5 ms.
"""


class Options(usage.Options):
    """The options of ``twistd middlewared``."""

    optParameters = [["config", "c", None, "The ini file; without it all defaults apply."]]  # noqa: RUF012


def makeService(options: Options) -> Daemon:
    """Make the daemon for twistd (:class:`twisted.application.service.ServiceMaker`)."""
    from twisted.internet import reactor

    measure_monotonically(reactor)
    allow_open_files()
    sys.setswitchinterval(THREAD_TURN_S)
    path = Path(options["config"]).absolute() if options["config"] else None
    try:
        files = LoadedFiles()
        components = Components(reactor=reactor, config=read_all(path, files), files=files)
    except ConfigError as error:
        _complain(error.lines)
        raise SystemExit(1) from None

    def failed(lines: list[str]) -> None:
        if components.config.log.file is not None:  # otherwise the log has shown them
            _complain(lines)
        _leave_with_failure()

    daemon = Daemon(
        reactor=reactor,
        components=components,
        manager=ServiceManager(clock=cast(Clock, reactor), environ=os.environ),
        reread=lambda: read_all(path, files),
        in_thread=partial(deferToThreadPool, reactor, reactor.getThreadPool()),
        failed=failed,
    )
    reactor.callWhenRunning(_take_signals, reactor, daemon)
    collections = FullCollections(
        clock=cast(Clock, reactor), waiting=lambda: components.ringing.waiting
    )
    reactor.callWhenRunning(collections.start)
    return daemon


def _complain(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201


def _take_signals(reactor: Any, daemon: Daemon) -> None:
    """
    Make SIGTERM and SIGINT a drain that ends with exit code 0 (after stopping, twistd would
    kill itself with the signal), SIGHUP a reload, and SIGUSR1 the release of rotated logs.
    """

    def stop(*_: object) -> None:
        reactor.callFromThread(daemon.end)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(daemon.reload))
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(daemon.reopen_logs))


def _leave_with_failure() -> None:
    """Make the exit code 1 once all is stopped; twistd has no exit code for a failed start."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)
