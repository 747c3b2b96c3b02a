"""
The composition root: which objects the daemon consists of, and what each of them is given.

* :class:`Components` makes them, room by room, and joins them. Collaborators arrive in
  constructors and stay; a reload brings only settings.
* :mod:`.implementations` chooses between the implementations of a seam (SQLite or PostgreSQL,
  in-process or Redis, which account backend), :mod:`.providers` those of the apps' providers;
  :mod:`.console_parts` makes the console.
* :mod:`.room_settings` has what each room takes from the configuration.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from twisted.internet.defer import TimeoutError
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.calls.call_log import CallLog
from middlewared.calls.device_updates import note_late_answer
from middlewared.calls.overload import Overload
from middlewared.calls.ringing import Ringing
from middlewared.calls.waking import Waker
from middlewared.clock import wall_clock
from middlewared.config import Config
from middlewared.errors import DatabaseDown
from middlewared.history.recorded_registry import RecordedRegistry
from middlewared.kamailio.kamailio_links import KamailioLinks
from middlewared.logs import Repeats
from middlewared.metrics import Metrics, Sources
from middlewared.model import LateAnswer, Outcome
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.lost_account_notices import LostAccountNotices
from middlewared.push.removal_brake import RemovalBrake
from middlewared.push.routing import RouteTable
from middlewared.rendezvous.memory import fresh_key
from middlewared.service.apps import load_apps
from middlewared.service.condition import Condition
from middlewared.service.config_changes import Apps, PreparedReload, describe_changes
from middlewared.service.console_parts import ConsoleParts, Shown
from middlewared.service.implementations import (
    choose_accounts,
    choose_endpoints,
    choose_rendezvous,
)
from middlewared.service.kamailio_requests import KamailioRequests
from middlewared.service.listeners import choose_listeners
from middlewared.service.loaded_files import LoadedFiles
from middlewared.service.log_files import LogFiles
from middlewared.service.phone_reports import PhoneReports
from middlewared.service.ports import Listener
from middlewared.service.providers import Providers
from middlewared.service.reactor_turns import watch_turns
from middlewared.service.record_keeping import RecordKeeping
from middlewared.service.room_settings import (
    cache_settings,
    kamailio_addresses,
    needing_restart,
    ringing_settings,
    web_settings,
    with_kind_of_accounts,
)
from middlewared.service.storage import retention
from middlewared.web.health import Health
from middlewared.web.root import Web


class Components:
    """
    All objects of one daemon.

    :param files: what was loaded when ``config`` was read.
    :ivar config: the current configuration.
    :ivar reloaded: whether the last reload was accepted, and when the configuration in use was
        read, in epoch seconds.
    :ivar draining: as /health/ reports it.
    :ivar ready: whether calls are taken.
    """

    log = Logger()

    def __init__(self, *, reactor: Any, config: Config, files: LoadedFiles | None = None) -> None:
        """:raises ConfigError: a file that the configuration names cannot be used."""
        self._reactor = reactor
        self.config = config
        self.draining = False
        self._files = files or LoadedFiles()
        self._apps: Apps = load_apps(config, now=wall_clock(), files=self._files)
        self.reloaded = True, wall_clock()
        self.ready = False
        self._call_work, self._request_work = Background(), Background()
        self._notice_work = Background()
        self._make_observers()
        self._make_records()
        self._make_rendezvous()
        self._make_accounts()
        self._make_push()
        self._make_ringing()
        self._make_web()
        self._make_kamailios()
        self._make_gauges()
        self._make_console()

    def _make_observers(self) -> None:
        self.logs = LogFiles(wall=wall_clock)
        self.logs.use(self.logs.open(self.config.log))
        self.metrics = Metrics()
        self.repeats = Repeats(clock=self._reactor)
        self.overload = Overload(clock=self._reactor, metrics=self.metrics)

    def _make_records(self) -> None:
        self.brake = RemovalBrake(clock=self._reactor)
        self.records = records = RecordKeeping(
            reactor=self._reactor,
            config=lambda: self.config,
            keeps_dead=self.brake.paused,
            lost=self.metrics.history_lost,
        )
        self.devices, self.history = records.devices, records.history
        self.recorder, self.watch = records.recorder, records.watch
        self.reports = PhoneReports(
            metrics=self.metrics, file=self.logs.reports, recorder=self.recorder, wall=wall_clock
        )

    def _make_rendezvous(self) -> None:
        self.call_log = CallLog(
            clock=self._reactor,
            wall=wall_clock,
            metrics=self.metrics,
            log_response=self.records.responses.add,
            log_wakeup=self.records.wakeups.add,
            log_late=lambda late, time: self._call_work.run(self._note_late(late, time)),
            recorder=self.recorder,
            daemon=self.recorder.daemon,
        )
        self.rendezvous = choose_rendezvous(
            self.config,
            reactor=self._reactor,
            table=self.records.heartbeats,
            late=self.call_log.ended,
        )

    def _make_accounts(self) -> None:
        self._endpoints = choose_endpoints(self.config, reactor=self._reactor)
        self._client = PooledHttpClient(
            reactor=self._reactor, endpoints=self._endpoints, tls=ClientTLS(trust=load_trust(None))
        )
        self._accounts = choose_accounts(self.config, reactor=self._reactor, client=self._client)
        self.accounts = self._accounts.backend

    def _make_push(self) -> None:
        self.providers = Providers(
            reactor=self._reactor,
            clock=self._reactor,
            endpoints=self._endpoints,
            metrics=self.metrics,
            on_result=self.brake.record,
        )
        self.routes = RouteTable(background=self._notice_work, clock=self._reactor)
        self.notices = LostAccountNotices(
            clock=self._reactor,
            routes=self.routes,
            background=self._notice_work,
            recorder=self.recorder,
        )

    def _make_ringing(self) -> None:
        self.ringing = Ringing(
            clock=self._reactor,
            wall=wall_clock,
            rendezvous=self.rendezvous,
            waker=Waker(
                clock=self._reactor,
                registry=self.devices,
                rendezvous=self.rendezvous,
                routes=self.routes,
                background=self._call_work,
                recorder=self.recorder,
                overloaded=lambda: self.overload.late,
            ),
            admission=self.overload,
            ended=self.call_log.ended,
            new_key=fresh_key,
            settings=ringing_settings(self.config),
        )

    def _make_web(self) -> None:
        self.condition = Condition(
            clock=self._reactor,
            devices=self.devices,
            rendezvous=self.rendezvous,
            accounts=self.accounts,
            ringing=self.ringing,
            overload=self.overload,
        )
        self.web = Web(
            clock=self._reactor,
            wall=wall_clock,
            background=self._request_work,
            settings=web_settings(self.config, self._apps),
            calls=self.ringing,
            devices=RecordedRegistry(devices=self.devices, recorder=self.recorder),
            accounts=self.accounts,
            notify_lost=self.notices.notify,
            report=self.reports.report,
            hangup=self.reports.hangup,
            health=self.health,
            repeats=self.repeats,
            observe_request=self.metrics.http_request,
            observe_pbx=self.metrics.pbx_request,
        )

    def _make_kamailios(self) -> None:
        requests = KamailioRequests(
            clock=self._reactor,
            calls=self.ringing,
            web=self.web,
            repeats=self.repeats,
            observe_pbx=self.metrics.pbx_request,
        )
        self.kamailios = KamailioLinks(
            clock=self._reactor,
            endpoints=DirectEndpoints(self._reactor),
            requests=requests,
            repeats=self.repeats,
        )

    def _make_gauges(self) -> None:
        self.metrics.sources = Sources(
            waiting=lambda: self.ringing.waiting,
            apns_connections=self.providers.apns_connections,
            provider_connections=self.providers.provider_connections,
            credential_expiry=self.providers.credential_expiry,
            dependencies=self.condition.dependencies,
            devices=lambda: self.records.counts.devices,
            silent_devices=lambda: self.records.counts.silent,
            token_removals_paused=lambda: {key: self.brake.paused(*key) for key in self._apps},
            config_reload=lambda: self.reloaded,
            kamailios=self.kamailios.connected,
        )

    def _make_console(self) -> None:
        shown = Shown(
            ringing=self.ringing,
            devices=self.devices,
            storage=self.records.storage,
            recorder=self.recorder,
            health=self.health,
            sources=self.metrics.sources,
            apps=lambda: self._apps.keys(),
            busy=lambda: self.overload.late,
        )
        self.console = ConsoleParts(reactor=self._reactor, config=self.config, shown=shown)

    def listeners(self) -> list[Listener]:
        """Where to listen and what is served there."""
        return choose_listeners(self._reactor, self.config, self.web, self.console, self.metrics)

    async def start(self) -> None:
        """
        Open what the daemon depends on; what is down is tried again until it is back.

        :raises ConfigError: the database cannot be used as configured.
        """
        self.logs.start(self._reactor.callFromThread)
        try:
            await self.devices.start()
        except DatabaseDown as error:
            self.log.error("the database is down, starting without it: {error}", error=error)
        await self.rendezvous.start()
        await self.accounts.start()
        self.routes.replace(self.providers.routes(self._apps))
        self.watch.start()
        self.records.counts.start()
        self.records.purge.start()
        await self.console.start()
        watch_turns(
            self._reactor,
            turn_began=self.overload.turn_began,
            turn_ended=self.overload.turn_ended,
        )

    def prepare(self, config: Config) -> PreparedReload:
        """
        Read and open all files of ``config``; changes nothing, and may run in another thread.

        :raises ConfigError: it cannot be used.
        """
        written, config = config, with_kind_of_accounts(self.config, config)
        apps = load_apps(config, now=wall_clock(), files=self._files)
        use_accounts = self._accounts.prepare(config.accounts)
        use_console = self.console.prepare(config)
        log_files = self.logs.open(config.log)
        return PreparedReload(written, config, apps, use_accounts, use_console, log_files)

    def use(self, prepared: PreparedReload) -> str:
        """
        Use this configuration for everything that begins from now on.

        :return: what has changed.
        :raises Exception: a bug of ours; nothing has changed.
        """
        written, config, apps = prepared.written, prepared.config, prepared.apps
        try:
            ringing, web = ringing_settings(config), web_settings(config, apps)
            cache, kept = cache_settings(config), retention(config)
            changes = describe_changes(
                (self.config, self._apps), (config, apps), self.records.counts.devices
            )
            routes = self.providers.routes(apps)
        except BaseException:
            prepared.log_files.close()
            raise
        # Nothing below can fail.
        self.logs.use(prepared.log_files)
        prepared.use_accounts()
        prepared.use_console()
        self._apps = apps
        self.routes.replace(routes)
        self.ringing.settings = ringing
        self.web.settings.current = web
        self.connect_kamailios(config)
        self.devices.reconfigure(cache)
        self.history.reconfigure(kept)
        self.recorder.reconfigure(kept)
        for key in needing_restart(self.config, written):
            self.log.warn("{key} has changed: it takes effect at the next start", key=key)
        self.config = config
        self.reloaded = True, wall_clock()
        return changes

    def reload_refused(self) -> None:
        """For the metrics: the configuration in use is not the one in the files."""
        self.reloaded = False, self.reloaded[1]

    def health(self) -> Health:
        """How the daemon is at this moment."""
        return self.condition.health(draining=self.draining)

    async def _note_late(self, late: LateAnswer, received_time: float) -> None:
        if not self.overload.late:
            await note_late_answer(late, received_time, self.devices, self.records.wakeups.add)

    def connect_kamailios(self, config: Config) -> None:
        """Take the calls of the Kamailios in ``config``, once calls are taken."""
        if self.ready:
            self.kamailios.use(kamailio_addresses(config))

    async def until_idle(self, longest_s: float) -> None:
        """Wait until no request is held, at most ``longest_s``."""
        with suppress(TimeoutError):
            await self.ringing.idle().addTimeout(longest_s, self._reactor)

    def abandon(self) -> None:
        """End every call that still waits: its PBX is notified that we drain."""
        self.rendezvous.settle_all(Outcome.DRAINING)

    async def stop(self) -> None:
        """Stop everything except the log: each before what it depends on."""
        for step in (
            self.watch.stop,
            self.console.stop,
            self.records.counts.stop,
            self.records.purge.stop,
            self._request_work.finish,
            self._stop_calls,
            self._stop_pushes,
            self.records.responses.stop,
            self.records.wakeups.stop,
            self.recorder.stop,
            self.accounts.stop,
            self._client.close,
            self.devices.stop,
        ):
            try:
                await step()
            except Exception:  # one failure must not keep the others from being stopped
                self.log.failure("stopping continues after a failure")

    async def _stop_calls(self) -> None:
        self.kamailios.stop()
        await self.rendezvous.stop()
        self.call_log.flush()
        self.overload.report()
        self.repeats.stop()

    async def _stop_pushes(self) -> None:
        self._notice_work.cancel()
        await self.routes.stop()
        await self._call_work.finish()
        await self._notice_work.finish()
