"""
The wiring: every part of the daemon, made and joined here and nowhere else.

Each part gets only what it needs, in its constructor; a reload gives parts new settings,
never new collaborators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import TimeoutError
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.calls.journal import Journal
from middlewared.calls.overload import Overload
from middlewared.calls.ringing import Ringing
from middlewared.clock import wall_clock
from middlewared.config import Config, Network
from middlewared.devices.batches import Batches
from middlewared.devices.cache import CachedDevices
from middlewared.devices.counts import DeviceCounts
from middlewared.errors import DatabaseDown
from middlewared.logs import Repeats, bounded
from middlewared.metrics import Metrics, Sources
from middlewared.metrics.exposition import MetricsResource
from middlewared.model import (
    Device,
    DeviceKind,
    LateAnswer,
    Outcome,
    Platform,
    ResponseRecord,
    Wakeup,
)
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.lost_account_notices import LostAccountNotices
from middlewared.push.removal_brake import RemovalBrake
from middlewared.push.routing import RouteTable
from middlewared.quoting import fingerprint, quoted
from middlewared.rendezvous.memory import fresh_key
from middlewared.service.apps import AppKey, LoadedApp, load_apps
from middlewared.service.dependency_watch import DependencyWatch
from middlewared.service.implementations import (
    Accounts,
    Registry,
    accounts_up,
    make_accounts,
    make_endpoints,
    make_registry,
    make_rendezvous,
    redis_up,
    reload_accounts,
    start_accounts,
    start_rendezvous,
    stop_accounts,
    stop_rendezvous,
)
from middlewared.service.log_files import Logs
from middlewared.service.ports import Listener
from middlewared.service.providers import Providers
from middlewared.service.reactor_turns import watch_turns
from middlewared.service.room_settings import (
    cache_settings,
    needing_restart,
    ringing_settings,
    web_settings,
)
from middlewared.web.health import Health
from middlewared.web.limits import Site
from middlewared.web.operator_site import operator_site
from middlewared.web.root import Web
from middlewared.web.settings import RouteSet


class Components:
    """
    All parts of one daemon.

    :param config: what they are made from; :ivar config: the present one.
    :ivar draining: /health/ says so.
    :raises ConfigError: a file that the configuration names cannot be used.
    """

    log = Logger()

    def __init__(self, *, reactor: Any, config: Config) -> None:
        self._reactor = reactor
        self.config = config
        self.draining = False
        apps = load_apps(config, now=wall_clock())
        endpoints = make_endpoints(config, reactor=reactor)
        self.logs = Logs(wall=wall_clock)
        self.logs.reload(config.log)
        self._calls = Background()
        self._requests = Background()
        self._notices = Background()
        self.metrics = Metrics()
        self.repeats = Repeats(clock=reactor)
        self.overload = Overload(clock=reactor, metrics=self.metrics)
        self.brake = RemovalBrake(clock=reactor)
        self._store: Registry = make_registry(config, reactor=reactor)
        self.registry = CachedDevices(
            registry=self._store,
            clock=reactor,
            settings=cache_settings(config),
            keeps_dead=self.brake.paused,
        )
        self.rendezvous = make_rendezvous(
            config,
            reactor=reactor,
            table=self._store,
            late=lambda answer: self.journal.ended(answer),
        )
        self._client = PooledHttpClient(
            reactor=reactor, endpoints=endpoints, tls=ClientTLS(trust=load_trust(None))
        )
        self.accounts: Accounts = make_accounts(config, reactor=reactor, client=self._client)
        self._make_push(apps, endpoints)
        self._make_calls()
        self._make_web()

    def _make_push(self, apps: Mapping[AppKey, LoadedApp], endpoints: TcpEndpoints) -> None:
        self.providers = Providers(
            reactor=self._reactor,
            clock=self._reactor,
            endpoints=endpoints,
            metrics=self.metrics,
            judged=self.brake.judged,
        )
        self._apps = apps
        self.routes = RouteTable(background=self._notices, clock=self._reactor)
        self.notices = LostAccountNotices(
            clock=self._reactor, routes=self.routes, background=self._notices
        )

    def _make_calls(self) -> None:
        self.responses: Batches[ResponseRecord] = Batches(
            name="response log", write=self.registry.log_responses, clock=self._reactor
        )
        self.wakeups: Batches[Wakeup] = Batches(
            name="silent streaks", write=self.registry.log_wakeups, clock=self._reactor
        )
        self.counts = DeviceCounts(
            table=self.registry,
            clock=self._reactor,
            silent_calls=lambda: self.config.calls.silent_calls,
        )
        self.journal = Journal(
            clock=self._reactor,
            wall=wall_clock,
            metrics=self.metrics,
            log_response=self.responses.add,
            log_wakeup=self.wakeups.add,
            log_late=lambda late, time: self._calls.run(self._heard_late(late, time)),
        )
        self.ringing = Ringing(
            clock=self._reactor,
            wall=wall_clock,
            registry=self.registry,
            rendezvous=self.rendezvous,
            routes=self.routes,
            background=self._calls,
            admission=self.overload,
            ended=self.journal.ended,
            new_key=fresh_key,
            settings=ringing_settings(self.config),
        )

    def _make_web(self) -> None:
        self.watch = DependencyWatch(clock=self._reactor, pings={"database": self.registry.ping})
        self.web = Web(
            clock=self._reactor,
            wall=wall_clock,
            background=self._requests,
            settings=web_settings(self.config),
            calls=self.ringing,
            devices=self.registry,
            accounts=self.accounts,
            notify_lost=self.notices.notify,
            report=self._report,
            hangup=self._hangup,
            health=self.health,
            repeats=self.repeats,
            http_request=self.metrics.http_request,
        )
        self.metrics.sources = Sources(
            waiting=lambda: self.ringing.waiting,
            apns_connections=self.providers.apns_connections,
            provider_connections=self.providers.provider_connections,
            credential_expiry=self.providers.credential_expiry,
            dependencies=self._dependencies,
            devices=lambda: self.counts.devices,
            silent_devices=lambda: self.counts.silent,
            token_removals_paused=self._removals_paused,
        )

    def faces(self) -> list[Listener]:
        """Where to listen and what is served there."""
        http = self.config.http
        apart = bool(http.pbx_listen)
        public = self.web.site(RouteSet.PUBLIC if apart else RouteSet.WHOLE)
        return [
            Listener(
                "metrics",
                "listen",
                "metrics",
                self.config.metrics.listen,
                self._metrics_site(),
                self._trusted_proxies,
            ),
            Listener(
                "http",
                "pbx_listen",
                "pbx",
                http.pbx_listen,
                self.web.site(RouteSet.PBX),
                self._trusted_proxies,
            ),
            Listener("http", "listen", "http", http.listen, public, self._trusted_proxies),
        ]

    def _trusted_proxies(self) -> Sequence[Network]:
        return self.web.settings.trusted_proxies

    def _dependencies(self) -> dict[str, bool]:
        """Which of those in use are up; ``accounts`` as its last answer told."""
        up = {
            "database": self.watch.is_up("database"),
            "redis": redis_up(self.rendezvous),
            "accounts": accounts_up(self.accounts),
        }
        return {name: value for name, value in up.items() if value is not None}

    def _removals_paused(self) -> dict[tuple[str, Platform], bool]:
        return {key: self.brake.paused(*key) for key in self._apps}

    def _metrics_site(self) -> Site:
        resource = MetricsResource(registry=self.metrics.registry, clock=self._reactor)
        return operator_site(resource=resource, clock=self._reactor)

    async def start(self) -> None:
        """
        Open what the daemon stands on; what is down is looked for until it is back.

        :raises ConfigError: the database cannot be used as configured.
        """
        self.logs.start(self._reactor.callFromThread)
        try:
            await self._store.start()
        except DatabaseDown as error:
            self.log.error("the database is down, starting without: {error}", error=error)
        await start_rendezvous(self.rendezvous)
        start_accounts(self.accounts)
        self.routes.replace(self.providers.routes(self._apps))
        self.watch.start()
        self.counts.start()
        watch_turns(
            self._reactor,
            turn_began=self.overload.turn_began,
            turn_ended=self.overload.turn_ended,
        )

    def reload(self, config: Config) -> None:
        """
        Take ``config`` for what comes from now on.

        :raises ConfigError: it cannot be used; nothing has changed.
        """
        apps = load_apps(config, now=wall_clock())
        self.logs.reload(config.log)
        reload_accounts(self.accounts, config)
        self._apps = apps
        self.routes.replace(self.providers.routes(apps))
        self.ringing.settings = ringing_settings(config)
        self.web.settings = web_settings(config)
        self.registry.settings = cache_settings(config)
        for key in needing_restart(self.config, config):
            self.log.warn("{key} has changed: it takes effect at the next start", key=key)
        self.config = config

    def health(self) -> Health:
        """How the daemon is at this moment."""
        return Health(
            database_up=self.watch.is_up("database") is True,
            redis_up=redis_up(self.rendezvous),
            waiting=self.ringing.waiting,
            lag_ms=round(self.overload.lag_s * 1000),
            draining=self.draining,
        )

    async def until_idle(self, longest_s: float) -> None:
        """Wait until no request is held, at most ``longest_s``."""
        with suppress(TimeoutError):
            await self.ringing.idle().addTimeout(longest_s, self._reactor)

    async def stop(self) -> None:
        """Close everything, in the order in which it depends on each other."""
        for step in (
            self.watch.stop,
            self.counts.stop,
            self._requests.finish,
            self._stop_calls,
            self._stop_pushes,
            self.responses.stop,
            self.wakeups.stop,
            self._stop_accounts,
            self._store.stop,
        ):
            try:
                await step()
            except Exception:  # what fails must not keep the others from being closed
                self.log.failure("the stop goes on after a failure")

    async def _stop_calls(self) -> None:
        await stop_rendezvous(self.rendezvous)
        self.journal.flush()
        self.overload.report()
        self.repeats.stop()

    async def _stop_pushes(self) -> None:
        self._notices.cancel()
        await self.routes.stop()
        await self._calls.finish()
        await self._notices.finish()

    async def _stop_accounts(self) -> None:
        stop_accounts(self.accounts)
        await self._client.close()

    def last_words(self) -> None:
        """Write what the log still holds; every later line is written at once."""
        self.logs.stop()

    def abandon(self) -> None:
        """End every call that still waits: its PBX is told that we drain."""
        self.rendezvous.abandon(Outcome.DRAINING)

    async def _heard_late(self, late: LateAnswer, received_time: float) -> None:
        """A phone that answers late is not silent, although its call timed out."""
        if self.overload.late:
            return
        with suppress(DatabaseDown):
            device = await self.registry.find(late.sip_user_id)
            if device is not None and DeviceKind(device.app, device.platform) == late.kind:
                self.wakeups.add(Wakeup(device, received_time))

    def _report(self, sip_user_id: int, fields: Mapping[str, str]) -> None:
        self.metrics.report(fields)
        kept = bounded(fields)
        self.logs.reports.write(sip_user_id, kept)
        self.log.debug("report of {sip_user_id}: {fields}", sip_user_id=sip_user_id, fields=kept)

    def _hangup(self, device: Device, unique_key: str, reason: str) -> None:
        self.log.info(
            "hangup of {sip_user_id} on {platform}, call {fingerprint}: {reason}",
            sip_user_id=device.sip_user_id,
            platform=device.platform.value,
            fingerprint=fingerprint(unique_key),  # who reads the key could answer the call
            reason=quoted(reason),
        )
