"""
A rolling restart under load: two daemons behind a real HAProxy with the shipped
configuration, one Redis, calls at a steady rate; prints one JSON object.

    python checks/rolling.py [--rate 200] [--rounds 2]

In each round each daemon is ended by SIGTERM and started again, one after the other, and
HAProxy must see it healthy before the next. The exit code is 0 when every call was ACKed.
HAProxy 2.6 must be on PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from generator import Client, form_request, percentile
from world import CHECKOUT

from middlewared.demo.stage import free_port
from tests.servers.redis import Redis

HOST = "127.0.0.1"
ACCOUNTS = 200
FIRST_ACCOUNT = 100_000_001
ANSWER_MS = 300
NOTICE_MS = 3000
TWISTD = "from twisted.scripts.twistd import run; run()"


class Process:
    """A program with its output in a file."""

    def __init__(self, folder: Path, name: str, *command: str) -> None:
        self._output = folder / f"{name}.log"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    async def wait_for(self, pattern: str) -> str:
        """The output, once it has ``pattern`` in it."""
        give_up = time.monotonic() + 30
        while not re.search(pattern, output := self._output.read_text()):
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"a process did not start: {output}")
            await asyncio.sleep(0.05)
        return output

    async def end(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        return await asyncio.to_thread(self._process.wait, 60)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def free_ports(count: int) -> list[int]:
    """Different free ports."""
    free: set[int] = set()
    while len(free) < count:
        free.add(free_port())
    return list(free)


class Deployment:
    """HAProxy, the simulator, Redis, and the daemons, each with its two ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis = Redis()
        self.phones, self.pbx, self.exporter, *ports = free_ports(7)
        self.ports = [(ports[0], ports[1]), (ports[2], ports[3])]
        self.daemons: list[Process] = []
        self.others: list[Process] = []

    async def start(self) -> None:
        """Start everything."""
        simulator = self._other(
            *("simulator", sys.executable, "-m", "middlewared.simulator"),
            *("--answer-ms", str(ANSWER_MS), "--answer-at", f"{HOST}:{self.phones}"),
        )
        self._known = json.loads((await simulator.wait_for("\n")).splitlines()[0])
        for number in range(2):
            self.daemons.append(await self.start_daemon(number))
        (self.folder / "haproxy.cfg").write_text(self._haproxy_config())
        self._other("haproxy", _haproxy(), "-db", "-f", "haproxy.cfg")
        for number in range(2):
            await self.until_seen(number)

    def _other(self, name: str, *command: str) -> Process:
        self.others.append(Process(self.folder, name, *command))
        return self.others[-1]

    async def start_daemon(self, number: int) -> Process:
        """A daemon that is ready."""
        config = self.folder / f"daemon{number}.ini"
        config.write_text(self._config(number))
        daemon = Process(
            *(self.folder, f"daemon{number}", sys.executable, "-c", TWISTD, "-n", "--pidfile="),
            *("middlewared", "--config", str(config)),
        )
        await daemon.wait_for("middlewared ready ")
        return daemon

    async def restart(self, number: int) -> int:
        """End a daemon and start it again, as ``systemctl restart`` does; its exit code."""
        code = await self.daemons[number].end()
        self.daemons[number] = await self.start_daemon(number)
        await self.until_seen(number)
        return code

    async def until_seen(self, number: int) -> None:
        """Wait until HAProxy has found a daemon healthy at both its ports."""
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            if self._states(f"daemon{number + 1}") == {"UP"}:
                return
            await asyncio.sleep(0.1)
        raise SystemExit("HAProxy does not see the daemon")

    def _states(self, server: str) -> set[str]:
        path = str(self.folder / "stats.sock")
        try:
            with socket.socket(socket.AF_UNIX) as stats:
                stats.connect(path)
                stats.sendall(b"show stat\n")
                lines = stats.makefile().read().splitlines()
        except OSError:
            return set()
        rows = (line.split(",") for line in lines if line)
        return {row[17] for row in rows if row[1] == server and row[18]}

    def _config(self, number: int) -> str:
        port, pbx_port = self.ports[number]
        return (
            f"[http]\nlisten = tcp:{port}:interface={HOST}\n"
            f"pbx_listen = tcp:{pbx_port}:interface={HOST}\ntrusted_proxies = {HOST}\n"
            f"[metrics]\nlisten =\n[accounts]\nbackend = open\n"
            f"[calls]\ndrain_notice_ms = {NOTICE_MS}\n"
            f"response_api = http://push{number + 1}.example.com/api/call-response/\n"
            f"[redis]\nnodes = {HOST}:{self.redis.port}\n"
            f"[app:bench:android]\nservice_account = {self._known['service_account']}\n"
            f"url = {self._known['google_url']}\n"
        )

    def _haproxy_config(self) -> str:
        """What is shipped, with our addresses and without TLS."""
        text = (CHECKOUT / "etc/haproxy/haproxy.cfg").read_text()
        changes = [
            ("/run/haproxy/admin.sock", f"{self.folder}/stats.sock"),
            ("    log /dev/log local0\n    log /dev/log local1 notice\n", ""),
            ("    log global\n", ""),
            ("bind 127.0.0.1:8405", f"bind {HOST}:{self.exporter}"),
            ("maxconn 40000", "maxconn 4000"),  # what file descriptors allow
            (
                "bind :443 ssl crt /etc/haproxy/middlewared.pem alpn h2,http/1.1",
                f"bind {HOST}:{self.phones}",
            ),
            ("bind 10.0.0.5:8081", f"bind {HOST}:{self.pbx}"),
        ]
        for number, (port, pbx_port) in enumerate(self.ports, 1):
            changes.append((f"10.0.0.1{number}:8080", f"{HOST}:{port}"))
            changes.append((f"10.0.0.1{number}:8081", f"{HOST}:{pbx_port}"))
        if os.geteuid() != 0:  # only root can become another user
            names = ("chroot /var/lib/haproxy", "user haproxy", "group haproxy")
            changes += [(f"    {name}\n", "") for name in names]
        for old, new in changes:
            if old not in text:
                raise SystemExit(f"etc/haproxy/haproxy.cfg has no {old!r}")
            text = text.replace(old, new)
        return text

    def stop(self) -> None:
        """Stop everything."""
        for process in [*self.daemons, *self.others]:
            process.kill()
        self.redis.remove()


class Calls:
    """Calls at a steady rate, until they are stopped."""

    def __init__(self, deployment: Deployment, per_second: float) -> None:
        self._pbx = Client([(HOST, deployment.pbx)])
        self._phones = Client([(HOST, deployment.phones)])
        self._per_second = per_second
        self.going = True
        self.answers: collections.Counter[str] = collections.Counter()
        self.took_s: list[float] = []

    async def register(self) -> None:
        """One phone for each account."""
        for number in range(ACCOUNTS):
            account = FIRST_ACCOUNT + number
            fields = {"sip_user_id": str(account), "token": f"token{account}", "app": "bench"}
            answer = await self._phones.ask(form_request("/api/android-device/", fields))
            if answer.status != 201:
                raise SystemExit(f"not registered: {answer}")

    async def run(self) -> None:
        """Place calls; ends when all are answered."""
        began, placed = time.perf_counter(), 0
        calls = set()
        while self.going:
            calls.add(asyncio.create_task(self._ring(placed)))
            placed += 1
            await asyncio.sleep(max(0.0, began + placed / self._per_second - time.perf_counter()))
        await asyncio.gather(*calls)
        self._pbx.close()
        self._phones.close()

    async def _ring(self, number: int) -> None:
        fields = {
            "sip_user_id": str(FIRST_ACCOUNT + number % ACCOUNTS),
            "phonenumber": "+31501234567",
            "call_id": str(uuid.uuid4()),
        }
        answer = await self._pbx.ask(form_request("/api/incoming-call/", fields))
        self.answers[f"{answer.status} {answer.body.decode()}"] += 1
        self.took_s.append(answer.received_at - answer.sent_at)


async def measure(per_second: float, rounds: int) -> int:
    """Print the figures; the exit code."""
    with tempfile.TemporaryDirectory(prefix="middlewared-rolling-") as folder:
        deployment = Deployment(Path(folder))
        try:
            await deployment.start()
            calls = Calls(deployment, per_second)
            await calls.register()
            ringing = asyncio.create_task(calls.run())
            await asyncio.sleep(2)
            codes = [await deployment.restart(number) for _ in range(rounds) for number in range(2)]
            calls.going = False
            await ringing
        finally:
            deployment.stop()
    failed = sum(calls.answers.values()) - calls.answers["200 status=ACK"]
    print(
        json.dumps(
            {
                "rate": per_second,
                "restarts": len(codes),
                "exit_codes": codes,
                "failed": failed,
                "answers": calls.answers,
                "p50_ms": round(percentile(calls.took_s, 0.5) * 1000),
                "p99_ms": round(percentile(calls.took_s, 0.99) * 1000),
                "max_ms": round(max(calls.took_s) * 1000),
            }
        )
    )
    return 1 if failed or any(codes) else 0


def _haproxy() -> str:
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise SystemExit("haproxy is not installed")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rate", type=float, default=200.0, help="calls per second")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    sys.exit(asyncio.run(measure(options.rate, options.rounds)))
