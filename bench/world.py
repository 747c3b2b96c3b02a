"""
What a benchmark of calls talks to, each in a process of its own: daemons as users run
them (twistd), a simulator that plays Apple, Google, the account API and the phones, and
for the cluster set-up a real PostgreSQL and a real Redis Cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from generator import cpu_s, rss_kib
from share import CoreShare

sys.path.insert(0, str(Path(__file__).parents[1]))

from middlewared.demo.stage import free_port

CHECKOUT = Path(__file__).parents[1]
READY = re.compile(r"middlewared ready ")
HOST = "127.0.0.1"
APP = "com.voipgrid.vialer"  # the simulated Apple knows its topics
TWISTD = "from twisted.scripts.twistd import run; run()"


@attrs.frozen
class Setup:
    """
    What is measured.

    :ivar cluster: PostgreSQL and Redis Cluster in place of SQLite and memory.
    :ivar platform: android (FCM v1) or apns.
    :ivar https: Google and the account API speak it, as in production.
    :ivar share: of one core, which each daemon may use at most; needs root.
    :ivar answer_ms: the simulated phones answer after so long; None: they do not.
    :ivar own_names: the simulated phones answer at the response_api of the push, so at the daemon
        that holds the call; otherwise at the daemons in turn, as behind a load balancer.
    :ivar silent: phones whose token ends in one of these digits do not answer.
    :ivar accounts: open, or voipgrid, which the simulator plays.
    :ivar sections: what is added to the configuration of the daemon of a number.
    :ivar database: a SQLite file of which the daemon gets a copy; None: it begins with none.
    :ivar environment: of the daemons.
    :ivar piped: the daemons write to a pipe, whose reader can pause.
    :ivar profile: where the daemons leave what cProfile saw; it doubles their cost.
    :ivar checkout: whose daemons these are; everything else is of this one.
    :ivar attach: a command that runs while it is measured, with the first daemon's process
        id as its last argument; SIGINT ends it.
    :ivar under: a command under which the daemons run, such as valgrind.
    """

    cluster: bool = False
    platform: str = "android"
    daemons: int = 1
    https: bool = False
    share: float | None = None
    answer_ms: float | None = None
    own_names: bool = False
    silent: str = ""
    accounts: str = "open"
    profile: Path | None = None
    wait_ms: int = 120_000
    resend_ms: int = 5000
    sections: Callable[[int], str] | None = None
    database: Path | None = None
    environment: dict[str, str] = attrs.Factory(dict)
    piped: bool = False
    checkout: Path = CHECKOUT
    attach: str = ""
    under: str = ""


class Process:
    """A program of ours in a process of its own, with its output in a file."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *command: str,
        piped: bool = False,
        under: str = "",
        **env: str,
    ) -> None:
        self._cpu_s = 0.0
        self._output = folder / f"{name}.log"
        self.reading = threading.Event()
        self.reading.set()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*shlex.split(under), sys.executable, *command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), **env},
                stdout=subprocess.PIPE if piped else output,
                stderr=subprocess.STDOUT,
            )
        if piped:
            threading.Thread(target=self._copy, daemon=True).start()

    def _copy(self) -> None:
        """Read the pipe into the file, unless ``reading`` is cleared."""
        assert self._process.stdout is not None
        with self._output.open("ab", buffering=0) as output:
            while some := os.read(self._process.stdout.fileno(), 65536):
                output.write(some)
                self.reading.wait()

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._output.read_text()

    def wait_for(self, pattern: str | re.Pattern[str], longest_s: float = 30.0) -> str:
        """The output, once it has ``pattern`` in it."""
        give_up = time.monotonic() + longest_s
        while not re.search(pattern, output := self._output.read_text()):
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"a process did not start: {output}")
            time.sleep(0.001)
        return output

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far; those of a process that has ended no longer grow."""
        with contextlib.suppress(OSError):
            self._cpu_s = cpu_s(self.pid)
        return self._cpu_s

    @property
    def rss_kib(self) -> int:
        return rss_kib(self.pid)

    def stop(self) -> str:
        """SIGTERM, and wait for the end; all of its output."""
        if self._process.poll() is not None:
            return self._output.read_text()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self._output.read_text()


class World:
    """
    All processes of one measurement; a context that stops them.

    :ivar addresses: of the daemons; ``metrics`` those of their metrics.
    :ivar folder: has their configurations and logs.
    :ivar start_s: from the start of the first daemon to its being ready, wall and CPU.
    :ivar seen: what the simulator has seen, after the end.
    """

    def __init__(self, folder: Path, setup: Setup) -> None:
        self.setup = setup
        self.folder = folder
        self.daemons: list[Process] = []
        self.addresses: list[tuple[str, int]] = []
        self.metrics: list[tuple[str, int]] = []
        self._shares: list[CoreShare] = []
        self.start_s = self.start_cpu_s = 0.0
        self.seen: dict[str, Any] = {}

    def __enter__(self) -> World:
        setup = self.setup
        self.addresses = [(HOST, free_port()) for _ in range(setup.daemons)]
        self.metrics = [(HOST, free_port()) for _ in range(setup.daemons)]
        options = ["--google-https"] if setup.https else []
        if setup.answer_ms is not None:
            options += ["--answer-ms", str(setup.answer_ms), "--silent", setup.silent]
            if not setup.own_names:
                options += ["--answer-at", *(f"{host}:{port}" for host, port in self.addresses)]
        self.simulator = Process(self.folder, "simulator", "-m", "middlewared.simulator", *options)
        self._known = json.loads(self.simulator.wait_for("\n").splitlines()[0])
        shared = self._servers() if setup.cluster else ""
        for number in range(setup.daemons):
            self._start_daemon(number, shared)
        return self

    def __exit__(self, *_: object) -> None:
        for share in self._shares:
            share.lift()
        for daemon in self.daemons:
            daemon.stop()
        for share in self._shares:
            share.end()
        self.seen = json.loads(self.simulator.stop().splitlines()[-1])

    def held_by(self, shares: list[CoreShare]) -> None:
        """Take over shares that were set later, to remove them at the end."""
        self._shares += shares

    def _start_daemon(self, number: int, shared: str) -> None:
        config = self.folder / f"daemon{number}.ini"
        own = self.setup.sections
        if self.setup.database is not None:
            shutil.copy(self.setup.database, self.folder / "middlewared.sqlite3")
        config.write_text(self._config(number) + shared + (own(number) if own else ""))
        began = time.perf_counter()
        profile = self.setup.profile
        profiling = (f"--profile={profile}", "--profiler=cprofile", "--savestats")
        daemon = Process(
            *(self.folder, f"daemon{number}", "-c", TWISTD, "-n", "--pidfile="),
            *(profiling if profile else ()),
            *("middlewared", "--config", str(config)),
            piped=self.setup.piped,
            under=self.setup.under,
            PYTHONPATH=str(self.setup.checkout),
            SSL_CERT_FILE=self._known["ca_file"],
            **self.setup.environment,
        )
        self.daemons.append(daemon)
        if self.setup.share is not None:
            self._shares.append(CoreShare(daemon.pid, self.setup.share))
        daemon.wait_for(READY, 300.0 if self.setup.under else 30.0)
        if number == 0:
            self.start_s, self.start_cpu_s = time.perf_counter() - began, daemon.cpu_s

    def _config(self, number: int) -> str:
        """One daemon's configuration."""
        setup, known = self.setup, self._known
        _, port = self.addresses[number]
        app = (
            f"[app:{APP}:apns]\nkey_file = {known['apns_key_file']}\n"
            f"key_id = {known['apns_key_id']}\nteam_id = {known['apns_team_id']}\n"
            f"production_url = {known['apns_production_url']}\n"
            f"sandbox_url = {known['apns_sandbox_url']}\nca_file = {known['ca_file']}\n"
            if setup.platform == "apns"
            else f"[app:{APP}:android]\nservice_account = {known['service_account']}\n"
            f"url = {known['google_url']}\nca_file = {known['ca_file']}\n"
        )
        return (
            f"[http]\nlisten = tcp:{port}:interface={HOST}:backlog=1000\n"
            f"[metrics]\nlisten = tcp:{self.metrics[number][1]}:interface={HOST}\n"
            f"[accounts]\nbackend = {setup.accounts}\nbase_url = {known['accounts_url']}\n"
            f"[calls]\nroundtrip_wait_ms = {setup.wait_ms}\n"
            f"resend_interval_ms = {setup.resend_ms}\n"
            f"response_api = http://{HOST}:{port}/api/call-response/\n{app}"
        )

    def _servers(self) -> str:
        """Start the servers of the cluster set-up, unless they run; where they are."""
        from tests.servers import postgres, redis

        server = postgres.shared_server()
        nodes = ", ".join(f"{host}:{port}" for host, port in redis.shared_cluster().nodes)
        return (
            f"[database]\nurl = {server.url(server.create_database())}\n"
            f"[redis]\nnodes = {nodes}\ncluster = yes\n"
        )

    def cpu_s(self) -> list[float]:
        """CPU seconds so far: of each daemon, the simulator and ourselves."""
        others = [process.cpu_s for process in (*self.daemons, self.simulator)]
        return [*others, time.process_time()]


class Meter:
    """Wall time and CPU of all processes while it is open."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> Meter:
        command = shlex.split(self._world.setup.attach)
        pid = str(self._world.daemons[0].pid)
        self._attached = subprocess.Popen([*command, pid]) if command else None
        self._began, self._cpu = time.perf_counter(), self._world.cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._began
        used = [now - then for now, then in zip(self._world.cpu_s(), self._cpu, strict=True)]
        *daemons, self.simulator_cpu_s, self.generator_cpu_s = used
        self.daemon_cpu_s = sum(daemons)
        if self._attached is not None:
            self._attached.send_signal(signal.SIGINT)
            self._attached.wait()

    def shares(self) -> dict[str, float]:
        """The CPU share of each party; 1.0 is one core."""
        return {
            "daemon_cpu": round(self.daemon_cpu_s / self.wall_s, 2),
            "simulator_cpu": round(self.simulator_cpu_s / self.wall_s, 2),
            "generator_cpu": round(self.generator_cpu_s / self.wall_s, 2),
        }
