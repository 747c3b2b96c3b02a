"""Several real daemons that act as one, and the phones whose answers a test gives by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, cast

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import GooglePush
from tests.daemons import PORTS, Answered, DaemonTestCase
from tests.servers.postgres import PostgresServer, shared_server
from tests.servers.redis import Redis, RedisCluster

clock = cast(IReactorTime, reactor)
FIRST_ACCOUNT = 300_000_001
UNAIDED_S = 60.0  # by then whatever was away and has come back must be in use again


@attrs.frozen
class Shared:
    """What the daemons share: the lines of ``[database]`` and ``[redis]``."""

    database: str
    redis: str

    @classmethod
    def of(cls, redis: Redis | RedisCluster, *servers: PostgresServer) -> Shared:
        """
        :param servers: the hosts of the database, in order; none: a database of its own on
            the server of all tests.
        """
        nodes = redis.nodes if isinstance(redis, RedisCluster) else [redis.node]
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
        if not servers:
            url = shared_server().url(shared_server().create_database())
        return cls(
            database=f"url = {url}",
            redis="nodes = "
            + ", ".join(f"{host}:{port}" for host, port in nodes)
            + ("\ncluster = yes" if isinstance(redis, RedisCluster) else ""),
        )


class FleetTestCase(DaemonTestCase):
    """
    :cvar sections: further ones of the configuration.
    :cvar calls: further lines of ``[calls]``, as ``accounts`` is of ``[accounts]``.
    :ivar daemons: each is named by its index in this list.
    :ivar pushes: the pushes that reached phones and were not taken from here yet.
    """

    sections = ""
    calls = ""
    accounts = ""

    def setUp(self) -> None:
        super().setUp()
        self.daemons: Sequence[DaemonProcess] = ()
        self.pushes: DeferredQueue[GooglePush] = DeferredQueue()
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self.pushes.put)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))

    async def start_fleet(self, shared: Shared, daemons: int = 3) -> None:
        """Start the daemons, all at once."""
        await self.start_each([shared] * daemons)

    async def start_each(self, shares: Sequence[Shared], wait_ms: int = 20000) -> None:
        """Start a daemon for each of ``shares``, all at once."""
        await self.google.start()
        starting = [
            self.start_daemon(self._config(shared, wait_ms), f"daemon{number}.ini")
            for number, shared in enumerate(shares)
        ]
        self.daemons = await gatherResults(map(Deferred.fromCoroutine, starting))

    def _config(self, shared: Shared, wait_ms: int) -> str:
        return (
            f"{PORTS}{self.sections}[accounts]\nbackend = open\n{self.accounts}"
            f"[calls]\nroundtrip_wait_ms = {wait_ms}\ndrain_ms = 500\n{self.calls}"
            f"[app:com.example:gcm]\napi_key = key\nurl = {self.google.url}/gcm/send\n"
            f"resend = never\n[database]\n{shared.database}\n[redis]\n{shared.redis}\n"
        )

    async def register(self, at: int, number: int = 0) -> Answered:
        """The phone of account ``number`` registers at daemon ``at``."""
        url = self.daemons[at].url("/api/gcm-device/")
        account = str(FIRST_ACCOUNT + number)
        return await self.post(url, sip_user_id=account, token=f"t{account}", app="com.example")

    def call(self, at: int, number: int = 0, call_id: str = "") -> Deferred[Answered]:
        """The PBX has a call for account ``number``, and asks daemon ``at``."""
        url = self.daemons[at].url("/api/incoming-call/")
        account = str(FIRST_ACCOUNT + number)
        fields = {"sip_user_id": account, "phonenumber": "0123456789", "call_id": call_id}
        return Deferred.fromCoroutine(self.post(url, **fields))

    async def cancel(self, at: int, number: int = 0, call_id: str = "") -> Answered:
        """The caller of account ``number`` gave up, as daemon ``at`` is notified."""
        query = f"?sip_user_id={FIRST_ACCOUNT + number}&call_id={call_id}"
        url = self.daemons[at].url("/api/incoming-call/") + query
        return await self._answered(self.client.delete(url))

    async def registered(self, at: int, number: int = 0, **fields: str) -> Answered:
        """The account ``number`` has registered at the SIP registrar."""
        url = self.daemons[at].url("/api/registration/")
        return await self.post(url, sip_user_id=str(FIRST_ACCOUNT + number), **fields)

    async def pushed(self, count: int) -> list[GooglePush]:
        """The next pushes."""
        return [await self.pushes.get().addTimeout(UNAIDED_S, clock) for _ in range(count)]

    async def answer(self, at: int, push: GooglePush) -> int:
        """A phone that got ``push`` answers at daemon ``at``; the status."""
        answered = await self.post(
            self.daemons[at].url("/api/call-response/"),
            unique_key=str(push.data["unique_key"]),
            message_start_time=str(push.data["message_start_time"]),
        )
        return answered.status

    async def rung(self, at: int, number: int = 0, through: int | None = None) -> None:
        """A whole call at daemon ``at``, answered at once, there or through another."""
        held = self.call(at, number)
        (push,) = await self.pushed(1)
        self.assertEqual(await self.answer(at if through is None else through, push), 202)
        self.assert_acknowledged(await held)

    async def health(self, at: int) -> dict[str, Any]:
        """The reply of a daemon's /health/."""
        answered = await self.get(self.daemons[at].url("/health/"))
        health: dict[str, Any] = json.loads(answered.text)
        self.assertEqual(answered.status, 503 if health["status"] == "starting" else 200)
        return health

    async def until_health(self, at: int, **expected: object) -> None:
        """Ask daemon ``at`` until its health has all that is ``expected``."""
        give_up = time.monotonic() + UNAIDED_S
        while not expected.items() <= (health := await self.health(at)).items():
            self.assertLess(time.monotonic(), give_up, f"{health}, not {expected}")
            await deferLater(clock, 0.05)

    async def until_all(self, **expected: object) -> None:
        """The same for every daemon."""
        for at in range(len(self.daemons)):
            await self.until_health(at, **expected)

    async def assert_dependency(self, at: int, name: str, up: int) -> None:
        """middlewared_dependency_up agrees with /health/."""
        metrics = await self.get(self.daemons[at].url("/metrics", "metrics"))
        self.assertIn(f'middlewared_dependency_up{{dependency="{name}"}} {up}.0', metrics.text)

    def assert_acknowledged(self, *answered: Answered) -> None:
        """The PBX got ACK for each call."""
        for each in answered:
            self.assertEqual((each.status, each.text), (200, "status=ACK"))
            self.assertEqual(each.header("X-Outcome"), "answered")

    def assert_service_down(self, answered: Answered) -> None:
        """A prompt 503, with the time after which to ask again."""
        self.assertEqual(answered.status, 503)
        self.assertTrue(answered.headers.hasHeader("Retry-After"))
