"""
The daemon's life: start, reload, drain, stop.

The one invariant: no held request is left unanswered, however the end comes about: a
drain lets calls finish, and those left at its end are told so before anything closes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from middlewared.config import Config
from middlewared.errors import ConfigError
from middlewared.service.components import Components
from middlewared.service.ports import addresses, listen
from middlewared.service.service_manager import ServiceManager

LAST_REPLIES_S = 0.05
# More than closing everything may take when the database and the providers hang.
CLOSING_S = 30.0


class Daemon(Service):
    """
    What twistd starts and stops.

    :param manager: is told of the steps of this life.
    :param reread: reads the configuration anew, or raises ConfigError.
    :param failed: given the problems' lines when the start failed, before everything is stopped.
    """

    log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        parts: Components,
        manager: ServiceManager,
        reread: Callable[[], Config],
        failed: Callable[[list[str]], None],
    ) -> None:
        self._reactor = reactor
        self._parts = parts
        self._manager = manager
        self._reread = reread
        self._fail = failed
        self._ending = False
        self._ready = False
        self._ports: list[Any] = []
        self._starting: Deferred[None] | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Called with twistd's application, which takes its log from us from now on."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._parts.logs.output)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Called by twistd when the reactor is about to run."""
        self.running = 1
        self._starting = Deferred.fromCoroutine(self._start()).addErrback(self._failed)

    def stopService(self) -> Deferred[None]:
        """Called once the process is told to end (SIGTERM, SIGINT)."""
        self.running = 0
        self._ending = True
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        parts = self._parts
        for warning in parts.config.warnings:
            self.log.warn("{warning}", warning=warning.line(parts.config.source))
        await parts.start()
        if self._ending:
            return
        where = []
        for face in parts.faces():
            ports = await listen(self._reactor, face)
            self._ports += ports
            where.append(addresses(face.name, ports))
        self._ready = True
        self.log.info("middlewared ready {where}", where=" ".join(filter(None, where)))
        self._manager.ready()

    def _failed(self, failure: Failure) -> None:
        """The start failed: say why in plain words, and end."""
        if self._ending:
            return
        lines: list[str] = []
        if isinstance(failure.value, ConfigError):
            lines = failure.value.lines
        else:
            self.log.failure("the start failed", failure)
        for line in lines:
            self.log.critical("{problem}", problem=line)
        self._fail(lines)
        self.end()

    def end(self) -> None:
        """Begin to end the process; repeated signals change nothing."""
        if not self._ending:
            self._ending = True
            self._reactor.callWhenRunning(self._reactor.stop)

    def reload(self) -> None:
        """SIGHUP: take the new configuration as a whole, or keep the old one as a whole."""
        if self._ending:
            self.log.warn("configuration not reloaded, the daemon ends")
            return
        if self._ready:
            self._manager.reloading()
        try:
            self._parts.reload(self._reread())
        except ConfigError as error:
            for line in error.lines:
                self.log.error("{problem}", problem=line)
            self.log.error("configuration not reloaded, the present one stays")
        except Exception:
            self.log.failure("configuration not reloaded")
        else:
            self.log.info("configuration reloaded")
        if self._ready:
            self._manager.ready()

    def reopen_logs(self) -> None:
        """SIGUSR1: let rotated files go, and change nothing else."""
        try:
            self._parts.logs.reload(self._parts.config.log)
        except ConfigError as error:
            for line in error.lines:
                self.log.error("{problem}", problem=line)
        else:
            self.log.info("log files opened anew")

    async def _stop(self) -> None:
        calls = self._parts.config.calls
        self._manager.stopping(calls.drain_notice_s + calls.drain_s + CLOSING_S)
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        if self._ready:
            await self._drain()
        await DeferredList([_closed(port) for port in self._ports], consumeErrors=True)
        await self._parts.stop()
        self._manager.stop()
        self.log.info("middlewared stopped")
        self._parts.last_words()

    async def _drain(self) -> None:
        """
        Let held calls finish. The balancer has drain_notice_ms to see /health/ and turn
        away, then new calls are refused; drain_ms later those still held are told.
        """
        parts = self._parts
        calls = parts.config.calls
        parts.draining = parts.web.closing = True
        self.log.info("draining, {waiting} calls wait", waiting=parts.ringing.waiting)
        await self._pause(calls.drain_notice_s)
        parts.ringing.draining = True
        await parts.until_idle(calls.drain_s)
        parts.abandon()
        await self._pause(LAST_REPLIES_S)  # the last replies are written in the next turns

    def _pause(self, seconds: float) -> Deferred[None]:
        pause: Deferred[None] = Deferred()
        self._reactor.callLater(seconds, pause.callback, None)
        return pause


def _closed(port: Any) -> Deferred[Any]:
    closing = port.stopListening()
    done: Deferred[Any] = Deferred()
    if isinstance(closing, Deferred):
        closing.chainDeferred(done)
    else:
        done.callback(None)
    return done
