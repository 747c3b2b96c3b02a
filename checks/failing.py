"""
What checks/failover.py lets fail: daemons at fixed addresses, PostgreSQL with a streaming
standby, a Redis Cluster, and a watch on the daemons' health all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from generator import Answer, Connection
from world import APP, HOST, READY, TWISTD, Process

from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisCluster, free_port

WAIT_S = 4.0
ANSWER_MS = 700
HEALTH = b"GET /health/ HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


class Daemon:
    """One daemon, which can be killed and started again at the same address."""

    def __init__(self, folder: Path, number: int, config: Callable[[int], str]) -> None:
        self.number = number
        self.port = free_port()
        self._folder = folder
        self._starts = 0
        self._config = folder / f"daemon{number}.ini"
        self._config.write_text(config(self.port))
        self.start()

    def start(self) -> None:
        """Start it; ``wait_until_ready`` waits."""
        self._starts += 1
        name = f"daemon{self.number}-{self._starts}"
        self.process = Process(
            *(self._folder, name, "-c", TWISTD, "-n", "--pidfile="),
            *("middlewared", "--config", str(self._config)),
        )

    def wait_until_ready(self) -> None:
        """Return when it accepts calls."""
        self.process.wait_for(READY)

    async def ask(self, request: bytes, longest_s: float = 5.0) -> Answer:
        """
        One request over a connection of its own; status 0: the connection was lost.

        :raises OSError: nothing listens there.
        """
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(Connection, HOST, self.port)
        try:
            return await asyncio.wait_for(connection.ask(request), longest_s)
        finally:
            transport.close()


class Servers:
    """PostgreSQL with a streaming standby, a Redis Cluster of 3 and 3, and the simulator."""

    def __init__(self, folder: Path) -> None:
        self.simulator = Process(
            *(folder, "simulator", "-m", "middlewared.simulator", "--answer-ms", str(ANSWER_MS))
        )
        self.known = json.loads(self.simulator.wait_for("\n").splitlines()[0])
        self.redis = RedisCluster.create()
        self.primary = PostgresServer()
        self.primary.start()
        self.standby = PostgresServer(standby_of=self.primary)
        self.standby.start()

    def sections(self) -> str:
        """The configuration that points daemons here."""
        hosts = ",".join(f"{HOST}:{server.port}" for server in (self.primary, self.standby))
        nodes = ", ".join(f"{host}:{port}" for host, port in self.redis.nodes)
        return (
            f"[database]\nurl = postgresql://postgres@{hosts}/postgres\n"
            f"[redis]\nnodes = {nodes}\ncluster = yes\n"
        )

    def stop(self) -> None:
        """Stop all."""
        self.simulator.stop()
        for node in self.redis.members:
            node.remove()
        self.standby.stop()
        self.primary.stop()


@contextlib.contextmanager
def daemons_at(
    folder: Path, count: int, servers: Servers, sections: str, phones_port: int
) -> Iterator[Sequence[Daemon]]:
    """Run ``count`` daemons; phones answer at ``phones_port``."""

    def config(port: int) -> str:
        return (
            f"[http]\nlisten = tcp:{port}:interface={HOST}\n"
            f"[metrics]\nlisten =\n[accounts]\nbackend = open\n"
            f"[calls]\nroundtrip_wait_ms = {int(WAIT_S * 1000)}\n"
            f"response_api = http://{HOST}:{phones_port}/api/call-response/\n"
            f"[app:{APP}:android]\nservice_account = {servers.known['service_account']}\n"
            f"url = {servers.known['google_url']}\n{sections}"
        )

    folder.mkdir()
    daemons = [Daemon(folder, number, config) for number in range(count)]
    try:
        for daemon in daemons:
            daemon.wait_until_ready()
        yield daemons
    finally:
        for daemon in daemons:
            daemon.process.stop()


class Watch:
    """Asks every daemon for its health, ten times a second."""

    def __init__(self, daemons: Sequence[Daemon]) -> None:
        self._daemons = daemons
        self._samples: list[tuple[float, Daemon, dict[str, Any]]] = []
        self._tasks = [asyncio.create_task(self._ask(daemon)) for daemon in daemons]

    async def _ask(self, daemon: Daemon) -> None:
        while True:
            health: dict[str, Any] = {}
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                health = json.loads((await daemon.ask(HEALTH, 1.0)).body)
            self._samples.append((time.perf_counter(), daemon, health))
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()

    def noticed_s(self, name: str, since: float, until: float) -> dict[str, float | int | None]:
        """
        When the last daemon reported ``name`` as down, and when the last one as up again.

        None: no daemon noticed, because it was over too soon.
        """
        down: dict[int, list[float]] = {}
        for at, daemon, health in self._samples:
            if since <= at < until and health.get(name) == "down":
                down.setdefault(daemon.number, []).append(at - since)
        return {
            "daemons": len(down),
            "noticed_after_s": round(max(at[0] for at in down.values()), 2) if down else None,
            "recovered_after_s": round(max(at[-1] for at in down.values()), 2) if down else None,
        }
