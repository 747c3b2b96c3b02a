"""Daemons that reach Apple and Google through relays, and phones of the deployed apps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater

from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority, write_service_account
from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.generations import Generation
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.pbx import PBX, CallResult
from middlewared.simulator.phone import Phone, Phones, Reaction
from middlewared.simulator.record import ReceivedPush
from tests.cuttable import CuttableProxy
from tests.daemons import PORTS, DaemonTestCase

clock = cast(Any, reactor)
ANDROID_APP = "com.example.android"
FIRST_ACCOUNT = 400_000_001
USUAL = Reaction(1.2)
SLOW = Reaction(1.7)
SILENT = Reaction(available=None)


@attrs.frozen
class Apple:
    """One app's Apple, and the relay in front of it."""

    app: str
    server: AppleServer
    relay: CuttableProxy


class PushingTestCase(DaemonTestCase):
    """
    Each iOS app has its own certificate, connections and simulated Apple.

    :ivar balancer: gets the phones' answers; it connects to the first daemon.
    """

    calls = "roundtrip_wait_ms = 4000\nresend_interval_ms = 1000\n"
    connections = 2

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(folder=self.directory)
        self.phones = Phones()
        self.owned: list[Phone] = []
        self.apples: list[Apple] = []
        self.google = GoogleServer(
            reactor=reactor,
            certificate=self.authority.server(name="google"),
            listener=self.phones,
        )
        self.daemons: Sequence[DaemonProcess] = ()
        self.addCleanup(lambda: Deferred.fromCoroutine(self._stop_phones()))

    async def _stop_phones(self) -> None:
        for phone in self.owned:
            await phone.stop()

    async def apple(self, name: str, *, delay_s: float = 0.0) -> Apple:
        """Create an Apple for another app; call it before the daemons start."""
        app = f"com.example.{name}"
        while True:
            server = AppleServer(
                reactor=reactor,
                certificate=self.authority.server(name=f"apple-{name}"),
                client_authority=self.authority.certificate,
                topics=[f"{app}.voip"],
                listener=self.phones,
                interface="127.0.0.2",
            )
            port = await server.start()
            self.addCleanup(server.stop)
            # Apple refuses an :authority with a port other than its own, so the relay uses the
            # same, unless another process has it at the relay's address.
            with suppress(CannotListenError):
                relay = await self._relay(("127.0.0.2", port), port)
                break
        relay.delay_s = delay_s
        self.apples.append(Apple(app, server, relay))
        return self.apples[-1]

    async def start(self, sections: Sequence[str] = ("",)) -> None:
        """Start Google, and a daemon for each of ``sections`` of extra configuration."""
        port = await self.google.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))
        account = write_service_account(self.directory, token_uri=self.google.token_uri)
        self.google.trust(account)
        self.google_relay = await self._relay(("127.0.0.1", port))
        self.balancer = await self._relay(("127.0.0.1", 9))
        self.url = "http://{}:{}".format(*self.balancer.node)
        config = self._config()
        starting = [
            self.start_daemon(config + section, f"daemon{number}.ini")
            for number, section in enumerate(sections)
        ]
        self.daemons = await gatherResults(map(Deferred.fromCoroutine, starting))
        self.lead_to(0)
        for apple in self.apples:
            ready = rf'middlewared_apns_connections{{app="{apple.app}".*state="ready"}}'
            await self.until_metric(ready, self.connections)

    async def _relay(self, node: tuple[str, int], port: int = 0) -> CuttableProxy:
        relay = CuttableProxy(node, port=port)
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        return relay

    def _config(self) -> str:
        text = (
            f"{PORTS}[accounts]\nbackend = open\n"
            f"[calls]\nresponse_api = {self.url}/api/call-response/\n{self.calls}"
            f"[app:{ANDROID_APP}:android]\nservice_account = service-account.json\n"
            "url = https://{}:{}\nca_file = ca.pem\n".format(*self.google_relay.node)
        )
        for apple in self.apples:
            certificate = self.authority.apns_client(name=apple.app, topic=f"{apple.app}.voip")
            text += (
                f"[app:{apple.app}:apns]\ncertificate = {certificate.name}\nca_file = ca.pem\n"
                f"sandbox_url =\nconnections = {self.connections}\n"
                "production_url = https://{}:{}\n".format(*apple.relay.node)
            )
        return text

    def lead_to(self, at: int) -> None:
        """Let the balancer connect to daemon ``at``."""
        host, _, port = self.daemons[at].addresses["http"].partition(":")
        self.balancer.lead_to((host, int(port)))

    async def phone(
        self, generation: Generation, apple: Apple | None = None, reaction: Reaction = USUAL
    ) -> Phone:
        """A registered phone; ``apple`` None: Android."""
        account = FIRST_ACCOUNT + len(self.owned)
        phone = Phone(
            reactor=reactor,
            base_url=self.url,
            generation=generation,
            sip_user_id=account,
            token=f"{account:064x}",
            app=ANDROID_APP if apple is None else apple.app,
            reaction=reaction,
            authorization="Basic " + "QTpC",
        )
        self.owned.append(phone)
        self.phones.add(phone)
        self.assertEqual(await phone.register(), 201)
        return phone

    def call(self, phone: Phone, *, at: int = 0, call_id: str = "") -> Deferred[CallResult]:
        """The PBX posts a call for ``phone`` to daemon ``at``."""
        pbx = PBX(http=self.client, base_url=self.daemons[at].url(""), seconds=clock.seconds)
        return pbx.place(phone.sip_user_id, call_id=call_id)

    async def outcomes(self, *calls: Deferred[CallResult]) -> list[str]:
        """How these calls ended."""
        return [result.outcome for result in await gatherResults(calls)]

    async def pushed(self, phone: Phone, count: int) -> None:
        """Wait until ``phone`` has received ``count`` pushes."""
        await self.until(lambda: len(phone.pushes) >= count)

    async def until(self, true: Callable[[], bool]) -> None:
        """Poll until ``true`` holds."""
        while not true():
            await deferLater(clock, 0.01)

    async def answer(self, phone: Phone, available: bool, at: int = 0) -> int:
        """Answer the latest push of ``phone`` through daemon ``at``; returns the status."""
        url = self.daemons[at].url("/api/call-response/")
        return await phone.answer(data(phone), available=available, at=url)

    async def metric(self, pattern: str, at: int = 0) -> float:
        """The sum of all metrics of daemon ``at`` whose names with their labels match."""
        text = (await self.get(self.daemons[at].url("/metrics", "metrics"))).text
        return sum(float(number) for number in re.findall(rf"^{pattern} (\S+)$", text, re.M))

    async def until_metric(self, pattern: str, least: float, at: int = 0) -> None:
        """Scrape until the metric is at least ``least``."""
        while await self.metric(pattern, at) < least:
            await deferLater(clock, 0.02)


def data(phone: Phone) -> Mapping[str, Any]:
    """The data of the latest push to the phone."""
    push = phone.pushes[-1]
    return push.payload if isinstance(push, ReceivedPush) else push.data
