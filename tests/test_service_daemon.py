"""Reloads at the wrong moment, or of the wrong kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import attrs
import bcrypt
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase

from middlewared.accounts.interface import Account
from middlewared.basic_auth import encode_basic
from middlewared.config import (
    AccountSettings,
    AndroidApp,
    App,
    AppleApp,
    CallSettings,
    Config,
    DatabaseSettings,
    HttpSettings,
    LogSettings,
)
from middlewared.errors import ConfigError
from middlewared.model import Platform
from middlewared.service.components import Components
from middlewared.service.daemon import Daemon
from middlewared.service.service_manager import ServiceManager

APP = "com.example"


class CountedReloads:
    """Counts its reloads."""

    def __init__(self) -> None:
        self.reloads = 0
        self.refused = 0
        self.closed = 0
        self.log_files = self

    def prepare(self, config: Config) -> CountedReloads:
        return self

    def close(self) -> None:
        self.closed += 1

    def use(self, prepared: CountedReloads) -> str:
        self.reloads += 1
        return "nothing has changed"

    def reload_refused(self) -> None:
        self.refused += 1


class Reactor(Clock):
    """A clock that can be stopped like a reactor."""

    stopped = False

    def stop(self) -> None:
        self.stopped = True

    def callWhenRunning(self, call: Any) -> None:
        call()


class ReloadTests(SynchronousTestCase):
    """A daemon that was made and not started."""

    def setUp(self) -> None:
        self.components = CountedReloads()
        self.daemon = Daemon(
            reactor=Reactor(),
            components=cast(Components, self.components),
            manager=ServiceManager(clock=Clock(), environ={}),
            reread=self.reread,
            in_thread=self.in_thread,
            failed=lambda problems: None,
        )
        self.failure: Exception | None = None
        self.threads: list[Deferred[None]] = []
        self.waits = False

    def in_thread(self, prepare: Any) -> Deferred[Any]:
        """Call it at once, or later if the thread waits."""
        started: Deferred[None] = Deferred()
        self.threads.append(started)
        if not self.waits:
            started.callback(None)
        return started.addCallback(lambda _: prepare())

    def reread(self) -> Config:
        if self.failure is not None:
            raise self.failure
        return cast(Config, None)

    def test_before_ready(self) -> None:
        """The file as it is now is used from the start."""
        self.daemon.reload()
        self.assertEqual(self.components.reloads, 1)

    def test_unforeseen_failure(self) -> None:
        """It is logged, and the next reload is accepted."""
        self.failure = ZeroDivisionError()
        self.daemon.reload()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.components.refused, 1)
        self.failure = None
        self.daemon.reload()
        self.assertEqual(self.components.reloads, 1)

    def test_a_signal_while_files_are_read(self) -> None:
        """They are read once more, however many signals came: the last change counts."""
        self.waits = True
        for _ in range(3):
            self.daemon.reload()
        self.assertEqual((self.components.reloads, len(self.threads)), (0, 1))
        self.threads[0].callback(None)
        self.assertEqual((self.components.reloads, len(self.threads)), (1, 2))
        self.threads[1].callback(None)
        self.assertEqual((self.components.reloads, len(self.threads)), (2, 2))

    def test_the_end_while_files_are_read(self) -> None:
        """What was opened for the new configuration is closed again."""
        self.waits = True
        self.daemon.reload()
        self.daemon.end()
        self.threads[0].callback(None)
        self.assertEqual((self.components.reloads, self.components.closed), (0, 1))

    def test_at_the_end(self) -> None:
        """A daemon that ends makes no new providers."""
        self.daemon.end()
        self.daemon.reload()
        self.assertEqual(self.components.reloads, 0)


class FaultyFileTests(TestCase):
    """A reload that changes everything, with one fault, changes nothing."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.dangling = self.directory / "dangling"
        self.dangling.symlink_to(self.directory / "nowhere" / "file")
        self.config = Config(
            accounts=AccountSettings(backend="htpasswd", htpasswd=self.passwords("old")),
            apps=android(AndroidApp(app=APP, api_key="old")),
            database=DatabaseSettings(url=f"sqlite:{self.directory / 'devices.sqlite3'}"),
            log=LogSettings(file=self.directory / "old.log"),
        )
        self.other = attrs.evolve(
            self.config,
            accounts=attrs.evolve(self.config.accounts, htpasswd=self.passwords("new")),
            apps=android(AndroidApp(app=APP, api_key="new")),
            calls=CallSettings(roundtrip_wait_s=0.001),
            database=attrs.evolve(self.config.database, device_cache_s=0.001),
            http=HttpSettings(max_body_bytes=1),
            log=LogSettings(level="debug", format="json", file=self.directory / "new.log"),
        )
        self.components = Components(reactor=reactor, config=self.config)
        self.addCleanup(self.components.logs.output.close)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.components.stop()))
        self.successResultOf(Deferred.fromCoroutine(self.components.accounts.start()))

    def passwords(self, password: str) -> Path:
        """A file in which account 1 has ``password``."""
        path = self.directory / f"{password}.htpasswd"
        path.write_text(f"1:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n")
        return path

    def used(self) -> list[object]:
        """What the components use of the configuration, apart from log and passwords."""
        used = self.components
        settings = [used.web.settings.current, used.ringing.settings, used.devices.settings]
        return [used.config, *settings, used.routes.find(APP, Platform.ANDROID)]

    def logged(self) -> list[tuple[str, str]]:
        """Log a debug and an error line; all lines in all log files so far."""
        for level in (LogLevel.debug, LogLevel.error):
            event = {"log_level": level, "log_format": "text", "log_namespace": "middlewared"}
            self.components.logs.output({**event, "log_time": 0.0})
        files = sorted(self.directory.glob("*.log"))
        return [(path.name, line) for path in files for line in path.read_text().splitlines()]

    async def refused(self, config: Config, error: type[Exception] = ConfigError) -> None:
        """The configuration is refused, and all that is used is as before."""
        await self.accepts("old")
        used, logged, files = self.used(), self.logged(), len(os.listdir("/proc/self/fd"))
        with self.assertRaises(error):
            self.components.use(self.components.prepare(config))
        self.assertEqual(self.used(), used)
        self.assertEqual(self.logged(), logged * 2)
        self.assertEqual(len(os.listdir("/proc/self/fd")), files)
        await self.accepts("old")

    async def accepts(self, password: str) -> None:
        """An app may register with ``password``."""
        account = await self.components.accounts.authenticate(encode_basic("1", password))
        self.assertEqual(account, Account(1))

    async def test_metrics_file(self) -> None:
        """The log keeps its level, format and file."""
        log = attrs.evolve(self.other.log, metrics_file=self.dangling)
        await self.refused(attrs.evolve(self.other, log=log))

    async def test_log_file(self) -> None:
        """Nor is the file of reports opened."""
        reports = self.directory / "reports.json"
        log = attrs.evolve(self.other.log, file=self.dangling, metrics_file=reports)
        await self.refused(attrs.evolve(self.other, log=log))

    async def test_password_file(self) -> None:
        """The old passwords still count."""
        accounts = attrs.evolve(self.other.accounts, htpasswd=self.dangling)
        await self.refused(attrs.evolve(self.other, accounts=accounts))

    async def test_credentials_of_an_app(self) -> None:
        """The other apps are not replaced either."""
        app = AndroidApp(app="com.example.other", service_account=self.dangling)
        await self.refused(attrs.evolve(self.other, apps={**self.other.apps, **android(app)}))

    async def test_provider_that_cannot_be_made(self) -> None:
        """Not even an error of ours leaves anything half done."""
        app = AppleApp(app="com.example.other")
        apps = {**self.other.apps, (app.app, Platform.APNS): app}
        await self.refused(attrs.evolve(self.other, apps=apps), TypeError)

    def test_rotated_log_with_a_metrics_file_that_cannot_be_opened(self) -> None:
        """SIGUSR1 is no reload: the log is released in any case."""
        log = self.directory / "old.log"
        log.rename(self.directory / "old.log.1")
        settings = attrs.evolve(self.config.log, metrics_file=self.dangling)
        error = self.assertRaises(ConfigError, self.components.logs.reopen, settings)
        self.assertIn("[log] metrics_file: ", str(error))
        self.assertEqual([name for name, _ in self.logged()], ["old.log"])

    async def test_without_a_fault(self) -> None:
        """The same reload is accepted as a whole."""
        changes = self.components.use(self.components.prepare(self.other))
        used = self.used()
        self.assertEqual(used[0], self.other)
        for change in ("[calls] roundtrip_wait_ms;", "[log] level format file", "android api_key"):
            self.assertIn(change, changes)
        self.assertNotIn("new", changes)
        self.assertEqual(self.components.web.settings.current.max_body_bytes, 1)
        self.assertEqual(self.components.ringing.settings.wait_s, 0.001)
        self.assertEqual(self.components.devices.settings.keep_s, 0.001)
        self.assertIsNotNone(used[-1])
        self.assertEqual([name for name, _ in self.logged()], ["new.log", "new.log"])
        await self.accepts("new")


def android(app: AndroidApp) -> dict[tuple[str, Platform], App]:
    """The apps of a configuration that has only this one."""
    return {(app.app, Platform.ANDROID): app}
