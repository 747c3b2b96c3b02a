"""
The console of a daemon, made from the parts that it shows.

Without ``[admin] listen`` there is none; then a daemon at a database that others may use reports
its state, and that is all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from middlewared import __version__
from middlewared.accounts.htpasswd import HtpasswdAccounts, Passwords, read_console_users
from middlewared.calls.ringing import Ringing
from middlewared.clock import wall_clock
from middlewared.config import Config
from middlewared.console.access import Access
from middlewared.console.account_reader import AccountReader
from middlewared.console.console_root import ConsoleRoot
from middlewared.console.daemon_reports import MOST_HELD, DaemonReports
from middlewared.console.json_routes import JsonRoutes
from middlewared.console.live_streams import LiveStreams
from middlewared.console.operator_actions import OperatorActions
from middlewared.console.operator_calls import OperatorCalls
from middlewared.console.overview import OverviewReader
from middlewared.console.page_routes import PageRoutes
from middlewared.console.sources import AppKey, ConsoleSettings, DaemonReport, OverviewSources
from middlewared.devices.interface import DeviceRegistry
from middlewared.history.history_writer import HistoryWriter
from middlewared.history.json_forms import JsonForms
from middlewared.metrics import Sources
from middlewared.service.room_settings import console_limits, console_settings
from middlewared.service.storage import Storage
from middlewared.web.health import Health
from middlewared.web.settings import LiveSettings
from middlewared.web.site import LimitedSite

_NO_USERS = Passwords({}, b"", text=True)


@attrs.frozen(kw_only=True)
class Shown:
    """
    The parts of the daemon that the console shows.

    ``sources``: of the gauges. ``apps``: those that are configured. ``busy``: whether calls need
    all the time.
    """

    ringing: Ringing
    devices: DeviceRegistry
    storage: Storage
    recorder: HistoryWriter
    health: Callable[[], Health]
    sources: Sources
    apps: Callable[[], Iterable[AppKey]]
    busy: Callable[[], bool]


class ConsoleParts:
    """
    :param config: with ``[admin]``; a reload brings another one.
    :ivar site: the factory of its listener.
    """

    def __init__(self, *, reactor: Any, config: Config, shown: Shown) -> None:
        """:raises ConfigError: the file of its users cannot be used."""
        self._shown = shown
        self._settings = console_settings(config)
        self._text_accounts = config.accounts.are_texts  # a reload does not change it
        self._limits = LiveSettings(console_limits(config))
        self._users = HtpasswdAccounts(reactor=reactor, settings=_users(config))
        shared = config.database.sqlite_file is None
        self._reports = DaemonReports(
            clock=reactor, table=shown.storage.devices if shared else None, own=self._report
        )
        self._streams = LiveStreams(clock=reactor, busy=shown.busy)
        self._calls = OperatorCalls(clock=reactor, calls=shown.ringing)
        self.site = self._make_site(reactor)

    def _report(self) -> DaemonReport:
        health = self._shown.health()
        word = "ok" if health.database_up and health.redis_up is not False else "degraded"
        return DaemonReport(
            daemon=self._shown.recorder.daemon,
            version=__version__,
            health="draining" if health.draining else word,
            waiting=health.waiting,
            held=self._shown.ringing.open_calls(MOST_HELD),
        )

    def _make_site(self, reactor: Any) -> LimitedSite:
        shown, gauged = self._shown, self._shown.sources
        sources = OverviewSources(
            report=self._report,
            dependencies=gauged.dependencies,
            connections=gauged.provider_connections,
            expiry=lambda: dict.fromkeys(shown.apps()) | dict(gauged.credential_expiry()),
            devices=gauged.devices,
            silent_devices=gauged.silent_devices,
            figures=shown.recorder.counter.latest,
            busy=shown.busy,
        )
        history, settings = shown.storage.history, self._current
        overviews = OverviewReader(
            wall=wall_clock, history=history, reports=self._reports, sources=sources
        )
        accounts = AccountReader(devices=shown.devices, history=history, settings=settings)
        actions = OperatorActions(
            calls=self._calls, devices=shown.devices, recorder=shown.recorder, settings=settings
        )
        access = Access(clock=reactor, users=self._users)
        forms = JsonForms(text_accounts=self._text_accounts)
        pages = PageRoutes(
            clock=reactor,
            access=access,
            forms=forms,
            open_calls=shown.ringing,
            history=history,
            reports=self._reports,
            overviews=overviews,
            accounts=accounts,
            actions=actions,
            streams=self._streams,
            settings=settings,
        )
        documents = JsonRoutes(
            forms=forms, history=history, overviews=overviews, accounts=accounts, actions=actions
        )
        return ConsoleRoot(
            clock=reactor,
            access=access,
            pages=pages,
            documents=documents,
            settings=settings,
            limits=self._limits,
        ).site()

    def _current(self) -> ConsoleSettings:
        return self._settings

    async def start(self) -> None:
        """Begin to report to other daemons, and to check passwords."""
        await self._users.start()
        self._reports.start()

    def prepare(self, config: Config) -> Callable[[], None]:
        """
        Read what a reload changes.

        :return: puts it into use, and cannot fail.
        :raises ConfigError: the file of the users cannot be used.
        """
        users, settings, limits = _users(config), console_settings(config), console_limits(config)

        def use() -> None:
            self._users.reconfigure(users)
            self._settings = settings
            self._limits.current = limits

        return use

    async def stop(self) -> None:
        """End open pages; withdraw the report of this daemon."""
        self._limits.keep_alive = False
        self._streams.stop()
        await self._calls.stop()
        await self._reports.stop()
        await self._users.stop()


def _users(config: Config) -> Passwords:
    admin = config.admin
    if not admin.listen or admin.htpasswd is None:
        return _NO_USERS
    return read_console_users(admin.htpasswd)
