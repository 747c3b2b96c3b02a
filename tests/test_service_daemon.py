"""Reloads at the wrong moment, or of the wrong kind."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.config import Config
from middlewared.service.components import Components
from middlewared.service.daemon import Daemon
from middlewared.service.service_manager import ServiceManager


class OnePart:
    """Whose start ends when the test says, as far as a reload is concerned."""

    def __init__(self) -> None:
        self.reloads = 0

    def reload(self, config: Config) -> None:
        self.reloads += 1


class Reactor(Clock):
    """Which can be told to stop."""

    stopped = False

    def stop(self) -> None:
        self.stopped = True

    def callWhenRunning(self, call: Any) -> None:
        call()


class ReloadTests(SynchronousTestCase):
    """A daemon that was made and not started."""

    def setUp(self) -> None:
        self.components = OnePart()
        self.daemon = Daemon(
            reactor=Reactor(),
            components=cast(Components, self.components),
            manager=ServiceManager(clock=Clock(), environ={}),
            reread=self.reread,
            failed=lambda problems: None,
        )
        self.failure: Exception | None = None

    def reread(self) -> Config:
        if self.failure is not None:
            raise self.failure
        return cast(Config, None)

    def test_before_ready(self) -> None:
        """What the file says now is used from the start."""
        self.daemon.reload()
        self.assertEqual(self.components.reloads, 1)

    def test_unforeseen_failure(self) -> None:
        """It is logged, and the next reload is taken."""
        self.failure = ZeroDivisionError()
        self.daemon.reload()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.failure = None
        self.daemon.reload()
        self.assertEqual(self.components.reloads, 1)

    def test_at_the_end(self) -> None:
        """A daemon that ends makes no new providers."""
        self.daemon.end()
        self.daemon.reload()
        self.assertEqual(self.components.reloads, 0)
