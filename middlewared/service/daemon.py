"""
The daemon's life: start, reload, drain, stop.

No held request is left unanswered, however the daemon ends: a drain lets calls finish, and
those left at its end are answered as draining before anything closes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from middlewared.config import Config
from middlewared.errors import ConfigError
from middlewared.service.components import Components
from middlewared.service.config_changes import PreparedReload
from middlewared.service.ports import addresses, listen
from middlewared.service.service_manager import ServiceManager

InThread: TypeAlias = Callable[[Callable[[], PreparedReload]], Deferred[PreparedReload]]
"""Calls a function in another thread."""

LAST_REPLIES_S = 0.05
# More than stopping everything takes when the database and the providers do not answer.
CLOSING_S = 30.0


class Daemon(Service):
    """
    What twistd starts and stops.

    :param manager: notified when the daemon is ready, reloads and stops.
    :param reread: reads the configuration again, or raises ConfigError; called in a thread.
    :param in_thread: starts it there.
    :param failed: called with the lines of the problems when the start has failed, before
        everything stops.
    """

    log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        components: Components,
        manager: ServiceManager,
        reread: Callable[[], Config],
        in_thread: InThread,
        failed: Callable[[list[str]], None],
    ) -> None:
        self._reactor = reactor
        self._components = components
        self._manager = manager
        self._reread = reread
        self._in_thread = in_thread
        self._reloading = False
        self._reload_again = False
        self._fail = failed
        self._ending = False
        self._ready = False
        self._ports: list[Any] = []
        self._starting: Deferred[None] | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Called with twistd's application, whose log observer is ours from now on."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._components.logs.output)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Called by twistd when the reactor is about to run."""
        self.running = 1
        self._starting = Deferred.fromCoroutine(self._start()).addErrback(self._failed)

    def stopService(self) -> Deferred[None]:
        """Called when the reactor stops (SIGTERM, SIGINT)."""
        self.running = 0
        self._ending = True
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        config = self._components.config
        for warning in config.warnings:
            self.log.warn("{warning}", warning=warning.line(config.source))
        await self._components.start()
        if self._ending:
            return
        where = []
        for listener in self._components.listeners():
            ports = await listen(self._reactor, listener)
            self._ports += ports
            where.append(addresses(listener.name, ports))
        self._ready = self._components.ready = True
        self._components.connect_kamailios(self._components.config)
        self.log.info("middlewared ready {where}", where=" ".join(filter(None, where)))
        self._manager.ready()

    def _failed(self, failure: Failure) -> None:
        """The start failed: log the reason in plain words, and end."""
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
        """Begin to stop the process; repeated signals change nothing."""
        if not self._ending:
            self._ending = True
            self._reactor.callWhenRunning(self._reactor.stop)

    def reload(self) -> None:
        """
        SIGHUP: take the new configuration as a whole, or keep the old one as a whole.

        Its files are read in another thread. A signal that comes meanwhile has them read once
        more.
        """
        if self._ending:
            self.log.warn("configuration not reloaded, the daemon is stopping")
        elif self._reloading:
            self._reload_again = True
        else:
            self._reloading = True
            if self._ready:
                self._manager.reloading()
            preparing = self._in_thread(lambda: self._components.prepare(self._reread()))
            preparing.addCallback(self._use).addErrback(self._refused)
            preparing.addCallback(lambda _: self._reload_ended())

    def _use(self, prepared: PreparedReload) -> None:
        if self._ending:
            prepared.log_files.close()
            return
        changes = self._components.use(prepared)
        self.log.info("configuration reloaded: {changes}", changes=changes)

    def _refused(self, failure: Failure) -> None:
        self._components.reload_refused()
        if isinstance(failure.value, ConfigError):
            for line in failure.value.lines:
                self.log.error("{problem}", problem=line)
            self.log.error("configuration not reloaded, the current one stays")
        else:
            self.log.failure("configuration not reloaded", failure)

    def _reload_ended(self) -> None:
        self._reloading = False
        if self._reload_again and not self._ending:
            self._reload_again = False
            self.reload()
        elif self._ready and not self._ending:
            self._manager.ready()

    def reopen_logs(self) -> None:
        """SIGUSR1: release rotated files, and change nothing else."""
        try:
            self._components.logs.reopen(self._components.config.log)
        except ConfigError as error:
            for line in error.lines:
                self.log.error("{problem}", problem=line)
        else:
            self.log.info("log files reopened")

    async def _stop(self) -> None:
        calls = self._components.config.calls
        self._manager.stopping(calls.drain_notice_s + calls.drain_s + CLOSING_S)
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        if self._ready:
            await self._drain()
        closing = [maybeDeferred(port.stopListening) for port in self._ports]
        await DeferredList(closing, consumeErrors=True)
        await self._components.stop()
        self._manager.stop()
        self.log.info("middlewared stopped")
        self._components.logs.stop()

    async def _drain(self) -> None:
        """
        Let held calls finish. The balancer has drain_notice_ms to notice /health/ and send
        calls elsewhere, then new calls are refused; drain_ms later all that remain are ended.
        """
        components = self._components
        calls = components.config.calls
        components.draining = True
        components.kamailios.drain()
        components.web.settings.keep_alive = False
        self.log.info("draining, {waiting} calls wait", waiting=components.ringing.waiting)
        await deferLater(self._reactor, calls.drain_notice_s)
        components.ringing.draining = True
        await components.until_idle(calls.drain_s)
        components.abandon()
        # The last replies are written in the next turns.
        await deferLater(self._reactor, LAST_REPLIES_S)
