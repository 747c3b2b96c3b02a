"""
Whole calls through a real daemon: PBX, provider and phones are this process.

    python bench/calls.py latency     # answer -> ACK, one call at a time
    python bench/calls.py held        # many calls held at once, then all answered

The daemon runs as users run it (twistd, SQLite, in-process rendezvous); pushes go to a
simulated GCM in this process. Times are of this process's clock alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from generator import Connections, cpu_s, form_request, own_cpu_s, percentile, rss_kib
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults

from middlewared.simulator.daemon import DaemonProcess
from middlewared.simulator.google import GoogleServer
from middlewared.simulator.google_rules import GooglePush

FIRST_ACCOUNT = 100_000_001


class Bench:
    """One daemon with registered phones."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self._pushed, keep=1)
        self.daemon = DaemonProcess(reactor=reactor, config=folder / "bench.ini")
        self._folder = folder
        self._ringing: dict[str, Deferred[GooglePush]] = {}

    async def start(self, wait_ms: int) -> None:
        """Start the daemon."""
        await self.google.start()
        (self._folder / "bench.ini").write_text(
            "[http]\nlisten = tcp:0:interface=127.0.0.1\n[metrics]\nlisten =\n"
            "[accounts]\nbackend = open\n[log]\nlevel = info\nfile = daemon.log\n"
            f"[calls]\nroundtrip_wait_ms = {wait_ms}\n"
            f"[app:bench:gcm]\napi_key = key\nurl = {self.google.url}/gcm/send\nresend = never\n"
        )
        await self.daemon.start()
        address = urlsplit(self.daemon.url("/"))
        assert address.hostname and address.port
        host, port = address.hostname, address.port
        self.pbx = Connections(reactor=self.reactor, host=host, port=port)
        self.phones = Connections(reactor=self.reactor, host=host, port=port)

    async def stop(self) -> None:
        """Stop everything."""
        self.pbx.close()
        self.phones.close()
        await self.daemon.stop()
        await self.google.stop()

    async def register(self, accounts: int) -> None:
        """One phone for each account."""
        for first in range(0, accounts, 200):
            batch = range(first, min(first + 200, accounts))
            await gatherResults([self._register(FIRST_ACCOUNT + number) for number in batch])

    def _register(self, account: int) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        fields = {"sip_user_id": str(account), "token": f"token-{account}", "app": "bench"}
        request = form_request("/api/gcm-device/", fields)
        self.phones.ask(request, lambda *_: done.callback(None))
        return done

    def call(self, number: int) -> tuple[Deferred[GooglePush], Deferred[tuple[bytes, float]]]:
        """Place a call: its push, and the answer's body with the time it arrived."""
        account = FIRST_ACCOUNT + number
        pushed: Deferred[GooglePush] = Deferred()
        answered: Deferred[tuple[bytes, float]] = Deferred()
        self._ringing[f"token-{account}"] = pushed
        fields = {"sip_user_id": str(account), "phonenumber": "0123456789"}
        self.pbx.ask(
            form_request("/api/incoming-call/", fields),
            lambda _head, body, _sent: answered.callback((body, time.time())),
        )
        return pushed, answered

    def answer(self, push: GooglePush) -> float:
        """The phone answers; when its request was sent."""
        fields = {
            "unique_key": str(push.data["unique_key"]),
            "message_start_time": str(push.data["message_start_time"]),
        }
        sent: list[float] = []
        request = form_request("/api/call-response/", fields)
        self.phones.ask(request, lambda _head, _body, at: sent.append(at))
        return time.time()

    def _pushed(self, push: GooglePush) -> None:
        self._ringing.pop(push.token).callback(push)


async def latency(bench: Bench, calls: int, phone_s: float) -> dict[str, float]:
    """One call after the other; the phone answers ``phone_s`` after its push."""
    await bench.register(1)
    took = []
    for _ in range(calls):
        pushed, answered = bench.call(0)
        push = await pushed
        await task.deferLater(bench.reactor, phone_s)
        asked_at = bench.answer(push)
        body, at = await answered
        assert body == b"status=ACK", body
        took.append((at - asked_at) * 1000)
    return {
        "calls": calls,
        "answer_to_ack_p50_ms": round(percentile(took, 0.5), 2),
        "answer_to_ack_p99_ms": round(percentile(took, 0.99), 2),
    }


async def held(bench: Bench, calls: int) -> dict[str, float]:
    """``calls`` at once: all are held before the first phone answers."""
    await bench.register(calls)
    before = rss_kib(bench.daemon.pid)
    placed = [bench.call(number) for number in range(calls)]
    pushes = await gatherResults([pushed for pushed, _ in placed])
    full = rss_kib(bench.daemon.pid)
    asked_at = []
    for push in pushes:
        asked_at.append(bench.answer(push))
        await task.deferLater(bench.reactor, 0.002)
    answers = await gatherResults([answered for _, answered in placed])
    took = [(at - asked) * 1000 for (_, at), asked in zip(answers, asked_at, strict=True)]
    return {
        "held_at_once": calls,
        "acknowledged": sum(body == b"status=ACK" for body, _ in answers),
        "kib_a_call": round((full - before) / calls, 1),
        "answer_to_ack_p50_ms": round(percentile(took, 0.5), 2),
        "answer_to_ack_p99_ms": round(percentile(took, 0.99), 2),
    }


async def run(reactor: Any, arguments: argparse.Namespace) -> None:
    """One mode; prints a JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(reactor, Path(folder))
        await bench.start(wait_ms=60_000)
        try:
            began, own = time.time(), own_cpu_s()
            daemon = cpu_s(bench.daemon.pid)
            if arguments.mode == "latency":
                figures = await latency(bench, arguments.calls or 100, arguments.phone_ms / 1000)
            else:
                figures = await held(bench, arguments.calls or 500)
            seconds = time.time() - began
            figures["generator_cpu_share"] = round((own_cpu_s() - own) / seconds, 2)
            figures["daemon_cpu_share"] = round((cpu_s(bench.daemon.pid) - daemon) / seconds, 2)
        finally:
            await bench.stop()
    print(json.dumps({"mode": arguments.mode, **figures}))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["latency", "held"])
    parser.add_argument("--calls", type=int, help="default: 100 for latency, 500 for held")
    parser.add_argument("--phone-ms", type=float, default=300.0)
    arguments = parser.parse_args()
    task.react(lambda reactor: Deferred.fromCoroutine(run(reactor, arguments)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
