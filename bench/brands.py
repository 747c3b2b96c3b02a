"""
A fleet of brands at one daemon: start, memory, connections, and calls during reloads.

Each brand has an iOS app, all of them with the same team key, and with --google an Android app
with a service account of its own. Apple, Google, PBX and phones are in this process.

    python bench/brands.py --brands 50
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import treq
from generator import rss_kib
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

sys.path.insert(0, str(Path(__file__).parents[1]))

from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import (
    Authority,
    write_provider_key,
    write_service_account,
)
from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import ReceivedPush

reactor: Any = _reactor
FIRST_ACCOUNT = 300_000_000
ANSWER_AFTER_S = 0.05


class Fleet:
    """The daemon and its peers; phones answer each push once."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.answered_at: dict[str, float] = {}
        self.round = 0

    async def start(self) -> float:
        """Start all; seconds from the daemon's start until it takes calls."""
        authority = Authority(folder=self.folder)
        self.key = write_provider_key(self.folder)
        self.apple = AppleServer(
            reactor=reactor,
            certificate=authority.server(name="apple"),
            provider_keys=[self.key],
            topics=[f"com.example.b{number}.voip" for number in range(self.options.brands)],
            listener=self.pushed,
        )
        await self.apple.start()
        self.google = GoogleServer(reactor=reactor, certificate=authority.server(name="google"))
        await self.google.start()
        self.accounts = [
            write_service_account(
                self.folder,
                token_uri=self.google.token_uri,
                project_id=f"brand{number}",
                name=f"brand{number}",
            )
            for number in range(self.options.brands * self.options.google)
        ]
        for account in self.accounts:
            self.google.trust(account)
        (self.folder / "middlewared.ini").write_text(
            "[http]\nlisten = tcp:0:interface=127.0.0.1\n"
            "[metrics]\nlisten = tcp:0:interface=127.0.0.1\n"
            "[accounts]\nbackend = open\n[include]\nfiles = conf.d/*.ini\n"
            f"[app:*:apns]\nkey_file = {self.key.path}\nkey_id = {self.key.key_id}\n"
            f"team_id = {self.key.team_id}\nca_file = {authority.certificate}\n"
            f"production_url = {self.apple.url}\nsandbox_url =\n"
            f"[app:*:android]\nurl = {self.google.url}\nca_file = {authority.certificate}\n"
        )
        for generation in range(2):
            self.write(generation)
        self.change()
        self.daemon = DaemonProcess(reactor=reactor, config=self.folder / "middlewared.ini")
        began = time.perf_counter()
        await self.daemon.start()
        return time.perf_counter() - began

    def write(self, generation: int) -> None:
        """A file for each brand, and one for its account; both differ between generations."""
        folder = self.folder / f"generation{generation}"
        folder.mkdir()
        for number in range(self.options.brands):
            text = f"[app:com.example.b{number}:apns]\nconnections = {2 - generation}\n"
            if self.accounts:
                account = json.loads(self.accounts[number].path.read_text())
                path = folder / f"b{number}.json"
                path.write_text(json.dumps({**account, "generation": generation}))
                text += f"[app:com.example.b{number}:android]\nservice_account = {path}\n"
            (folder / f"b{number}.ini").write_text(text)

    def change(self) -> None:
        """Exchange the files of all brands at once, as a deployment does."""
        link = self.folder / "new"
        link.symlink_to(f"generation{self.round % 2}")
        link.rename(self.folder / "conf.d")
        self.round += 1

    def pushed(self, push: ReceivedPush) -> None:
        """The phone answers soon."""
        key = push.payload["unique_key"]
        reactor.callLater(ANSWER_AFTER_S, lambda: Deferred.fromCoroutine(self.answer(key)))

    async def answer(self, key: str) -> None:
        """One answer of a phone."""
        self.answered_at[key] = time.perf_counter()
        fields = {"unique_key": key, "message_start_time": "1"}
        await self.post("/api/call-response/", fields)

    async def post(self, path: str, fields: dict[str, str], **options: Any) -> Any:
        """POST a form; status and text."""
        response = await treq.post(self.daemon.url(path), data=fields, persistent=False, **options)
        return response.code, await response.text()

    async def register(self) -> None:
        """An iPhone of each brand."""
        for number in range(self.options.brands):
            account = str(FIRST_ACCOUNT + number)
            fields = {
                "sip_user_id": account,
                "token": f"{number:064x}",
                "app": f"com.example.b{number}",
                "push_profile": "once",
            }
            await self.post("/api/apns-device/", fields, auth=(account, "any"))

    async def call(self, number: int, took: list[float]) -> None:
        """One call; the time from its answer to the ACK."""
        key = f"{number:032x}"
        account = str(FIRST_ACCOUNT + number % self.options.brands)
        fields = {"sip_user_id": account, "phonenumber": "100", "call_id": key}
        _, text = await self.post("/api/incoming-call/", fields)
        if text == "status=ACK":
            took.append(time.perf_counter() - self.answered_at[key])

    async def calls(self, first: int, *, reload_every_s: float | None) -> str:
        """Calls at the rate; with reloads meanwhile."""
        took: list[float] = []
        count = int(self.options.seconds * self.options.rate)
        running, reload_at = [], time.perf_counter()
        for number in range(first, first + count):
            running.append(Deferred.fromCoroutine(self.call(number, took)))
            if reload_every_s and time.perf_counter() >= reload_at:
                reload_at += reload_every_s
                self.change()
                self.daemon.signal(signal.SIGHUP)
            await deferLater(reactor, 1 / self.options.rate)
        await gatherResults(running)
        took.sort()
        p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
        return f"{len(took)} of {count} answered, p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms"


async def measure(options: argparse.Namespace) -> None:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), options)
        print(f"start to ready: {await fleet.start():.2f} s")
        await fleet.register()
        await deferLater(reactor, 5)
        rss_mb = rss_kib(fleet.daemon.pid) / 1024
        print(f"connections to Apple: {len(fleet.apple.connections)}; memory: {rss_mb:.0f} MB")
        count = int(options.seconds * options.rate)
        print("calls alone:        ", await fleet.calls(0, reload_every_s=None))
        print("calls, all reloaded:", await fleet.calls(count, reload_every_s=5.0))
        print("reloads:", fleet.daemon.log.count("configuration reloaded"))
        await fleet.daemon.stop()


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description="A fleet of brands at one daemon.")
    parser.add_argument("--brands", type=int, default=50)
    parser.add_argument("--google", action="store_true", help="an Android app each as well")
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(measure(options)))


if __name__ == "__main__":
    main()
