"""
Google pushes: 1,000 a second over kept connections, alone and beside providers that stall.

Usage: google.py [PUSHES_PER_SECOND] [SECONDS] ; prints one line for each measurement.
The simulated Google is another process; connections are counted there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import reactor as _reactor  # noqa: E402
from twisted.internet.defer import Deferred, DeferredList  # noqa: E402
from twisted.internet.task import LoopingCall, react  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))

from providers import fcm_provider, http_client, make_push  # noqa: E402

from middlewared.model import Platform  # noqa: E402
from middlewared.outgoing.tls import load_trust  # noqa: E402
from middlewared.push.google.legacy import LegacyProvider  # noqa: E402
from middlewared.push.google.service_account import load_service_account  # noqa: E402
from middlewared.push.interface import PushProvider  # noqa: E402
from middlewared.simulator.certificates import Authority, write_service_account  # noqa: E402
from middlewared.simulator.google_server import GoogleServer  # noqa: E402
from middlewared.simulator.scripts import Delay, Stall  # noqa: E402

reactor: Any = _reactor
API_KEY = "bench"
NAMES = ("good", "slow", "dead")
TICK_S = 0.01


async def serve(_: object, folder: str) -> None:
    """The peer: a good server, one that answers after 3 s, one that never does."""
    authority = Authority(folder=Path(folder))
    servers = [
        GoogleServer(reactor=reactor, certificate=authority.server(), api_keys=[API_KEY], keep=10)
        for _ in NAMES
    ]
    for server in servers:
        await server.start()
    good, slow, dead = servers
    good.trust(write_service_account(Path(folder), token_uri=good.token_uri))
    slow.scripts.for_token("token", Delay(3))
    dead.scripts.for_token("token", Stall())
    print(json.dumps([server.url for server in servers]), flush=True)
    ended: Deferred[None] = Deferred()
    reactor.callInThread(_answer_questions, good, ended)
    await ended


def _answer_questions(server: GoogleServer, ended: Deferred[None]) -> None:
    for _ in sys.stdin:
        counts = [dict(server.protocols), server.oauth.issued_count, time.process_time()]
        print(json.dumps(counts), flush=True)
    reactor.callFromThread(ended.callback, None)


class Peer:
    """The process of :func:`serve`."""

    def __init__(self, folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.urls = dict(zip(NAMES, self._read(), strict=True))

    def counts(self) -> tuple[Counter[str], int, float]:
        """Connections opened at the good server, access tokens issued, CPU seconds used."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        connections, tokens, cpu = self._read()
        return Counter(connections), tokens, cpu

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@attrs.define
class Load:
    """Starts pushes at a steady rate, whether or not earlier ones were answered."""

    provider: PushProvider
    per_second: float
    took: list[float] = attrs.field(factory=list)
    results: Counter[str] = attrs.field(factory=Counter)
    sending: list[Deferred[None]] = attrs.field(factory=list)
    due: float = 0.0

    async def run(self, seconds: float) -> None:
        """Push for ``seconds`` and wait for the last verdict."""
        ticking = LoopingCall.withCount(self._tick)
        ticking.clock = reactor
        running = ticking.start(TICK_S)
        reactor.callLater(seconds, ticking.stop)
        await running
        await DeferredList(self.sending)

    def _tick(self, ticks: int) -> None:
        self.due += ticks * TICK_S * self.per_second
        while self.due >= 1:
            self.due -= 1
            self.sending.append(Deferred.fromCoroutine(self._send(len(self.sending))))

    async def _send(self, number: int) -> None:
        began = time.perf_counter()
        result = await self.provider.send(make_push(number, Platform.ANDROID, "token"))
        self.took.append(time.perf_counter() - began)
        self.results[f"{result.label} {result.reason}".strip()] += 1


class Bench:
    """The providers under load, and what is printed about them."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self._peer = peer
        self._trust = load_trust(folder / "ca.pem")
        self._account = load_service_account(folder / "service-account.json")

    def fcm(self) -> PushProvider:
        """FCM HTTP v1 at the good server."""
        return fcm_provider(self._account, self._peer.urls["good"], self._trust)

    def legacy(self, name: str) -> PushProvider:
        """The legacy protocol at any of the servers."""
        return LegacyProvider(
            app=name,
            api_key=API_KEY,
            url=f"{self._peer.urls[name]}/fcm/send",
            http=http_client(self._trust),
            clock=reactor,
        )

    async def measure(
        self, title: str, provider: PushProvider, rate: float, seconds: float, *beside: Load
    ) -> None:
        """Load ``provider``, perhaps beside other loads, and print the results."""
        before, _, _ = self._peer.counts()
        await provider.start()
        await Load(provider, rate / 2).run(1.0)  # warm up: connections, access token
        warm, _, peer_cpu = self._peer.counts()
        load = Load(provider, rate)
        others = [Deferred.fromCoroutine(each.run(seconds)) for each in beside]
        wall, cpu = time.perf_counter(), time.process_time()
        await load.run(seconds)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        opened, tokens, peer_cpu_end = self._peer.counts()
        await DeferredList(others)
        load.took.sort()
        print(
            f"{title}: {len(load.took) / wall:.0f} pushes/s, {dict(load.results)},"
            f" p50 {load.took[len(load.took) // 2] * 1000:.1f} ms,"
            f" p99 {load.took[int(len(load.took) * 0.99)] * 1000:.1f} ms,"
            f" CPU {cpu / wall:.0%}, of the peer {(peer_cpu_end - peer_cpu) / wall:.0%},"
            f" connections {dict(opened - before)}, {dict(opened - warm)} of them while it was"
            f" measured, access tokens {tokens}"
        )
        for each in beside:
            print(f"  beside it: {len(each.took)} pushes: {dict(each.results)}")
            await each.provider.stop()
        await provider.stop()


async def main(_: object, rate: str = "1000", seconds: str = "10") -> None:
    """Measure each protocol alone, then FCM beside two providers that stall."""
    pace, duration = float(rate), float(seconds)
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(folder)
        bench = Bench(peer, Path(folder))
        await bench.measure("FCM v1", bench.fcm(), pace, duration)
        await bench.measure("legacy", bench.legacy("good"), pace, duration)
        few = pace / 10
        stalled = [Load(bench.legacy(name), few) for name in ("slow", "dead")]
        await bench.measure("FCM v1, few", bench.fcm(), pace - 2 * few, duration)
        await bench.measure(
            "FCM v1, few, beside stalled providers", bench.fcm(), pace - 2 * few, duration, *stalled
        )
        peer.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        react(serve, sys.argv[2:])
    else:
        react(main, sys.argv[1:])
