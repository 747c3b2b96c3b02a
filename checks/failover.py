"""
Calls at a steady rate through three real daemons while what they depend on is killed:
a daemon (started again a second later, as systemd does), a master of the Redis Cluster,
and the PostgreSQL primary (its standby is promoted, as a failover tool does).

    python checks/failover.py [--calls 2000] [--rate 50] [--silent]

Before, the same rate without faults: through one daemon with everything in process, and
through the three. It prints a table and, as its last line, a JSON object; the exit code
is 0 when the goals hold. ``--silent`` stops the servers (SIGSTOP) where it
else kills them. The server programs are those of the tests.

This process is the PBX and the balancer before the phones' answers, which tries another
daemon when one is gone or replies 503, as the shipped haproxy.cfg does. An answer goes
to another daemon than the one that holds the call. Calls are not tried again: only one
whose own connection died is repeated, once, at another daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from failing import WAIT_S, Daemon, Servers, Watch, daemons_at
from generator import END, Answer, form_request, percentile
from world import APP, HOST

FIRST_ACCOUNT = 100_000_001
ACCOUNTS = 100
STEADY_CALLS = 300
NOTICED_AFTER_S = 2.0  # how long a failover tool takes to be sure that a primary is dead
RESTART_AFTER_S = 1.0
LOST_AFTER_S = WAIT_S + 5.0
ACK = b"status=ACK"
Figures: TypeAlias = dict[str, Any]


@attrs.define
class Placed:
    """A call: where it is held, and when its first answer went out and came back as ACK."""

    at: Daemon
    answer_sent_at: float = 0.0
    answered: bool = False
    elsewhere: bool = False


class Phones:
    """
    The balancer between the simulated phones and the daemons.

    :ivar calls: by unique_key, what is known of each call.
    :ivar statuses: how often phones got each status in the end.
    """

    def __init__(self) -> None:
        self.daemons: Sequence[Daemon] = ()
        self.calls: dict[str, Placed] = {}
        self.statuses: Counter[int] = Counter()
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Listen no more."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(END)).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                status = await self._forward(await reader.readexactly(int(length)))
                self.statuses[status] += 1
                writer.write(b"HTTP/1.1 %d -\r\nContent-Length: 0\r\n\r\n" % (status or 502))
        writer.close()

    async def _forward(self, body: bytes) -> int:
        """Pass an answer to a daemon, preferably not the call's own; the status."""
        fields = dict(pair.split("=") for pair in body.decode().split("&"))
        # While Redis is away a call has another key than its call_id: its daemon is unknown.
        placed = self.calls.get(fields["unique_key"]) or Placed(random.choice(self.daemons))
        request = form_request("/api/call-response/", fields, keep=False)
        others = [daemon for daemon in self.daemons if daemon is not placed.at]
        random.shuffle(others)
        status = 0
        for daemon in (*others, placed.at):
            # Noted now: the PBX may have its ACK before the phone has its 202.
            if not placed.answered:
                placed.elsewhere = daemon is not placed.at
                placed.answer_sent_at = time.perf_counter()
            try:
                status = (await daemon.ask(request)).status
            except (OSError, TimeoutError):
                continue
            placed.answered = placed.answered or status == 202
            if status not in (0, 503):
                break
        return status


class Calls:
    """The PBX: places calls and checks their outcomes."""

    def __init__(self, phones: Phones) -> None:
        self._phones = phones
        self._daemons = phones.daemons
        self.counts: Counter[str] = Counter()
        self.longest_s = 0.0
        self.took_ms: list[float] = []
        self.wrong: list[str] = []

    async def register(self) -> None:
        """One phone for each account; then each daemon has a call for each, and knows it."""
        for number in range(ACCOUNTS):
            account = FIRST_ACCOUNT + number
            fields = {"sip_user_id": str(account), "token": f"t{account}", "app": APP}
            request = form_request("/api/android-device/", fields, keep=False)
            answer = await self._daemons[0].ask(request)
            if answer.status != 201:
                raise SystemExit(f"not registered: {answer}")
        await self.at_a_rate(ACCOUNTS * len(self._daemons), 100.0)

    async def at_a_rate(self, calls: int, per_second: float) -> None:
        """Place ``calls`` in turn at all daemons; ends when each has its outcome."""
        began, tasks = time.perf_counter(), []
        for number in range(calls):
            ahead_s = began + number / per_second - time.perf_counter()
            await asyncio.sleep(max(0.0, ahead_s))
            daemon = self._daemons[number % len(self._daemons)]
            account = FIRST_ACCOUNT + number // len(self._daemons) % ACCOUNTS
            tasks.append(asyncio.create_task(self._ring(daemon, account)))
        await asyncio.gather(*tasks)

    async def _ring(self, daemon: Daemon, account: int) -> None:
        """One call, repeated once when its connection dies."""
        key = str(uuid.uuid4())
        answer, placed = await self._place(daemon, account, key)
        if answer is not None and answer.status == 0:
            self.counts["own connection died"] += 1
            others = [each for each in self._daemons if each is not placed.at]
            answer, placed = await self._place(random.choice(others), account, key)
            repeated = answer is not None and answer.body == ACK
            self.counts["repeat answered" if repeated else "repeat failed"] += 1
            return
        self._check(key, placed, answer)

    async def _place(self, daemon: Daemon, account: int, key: str) -> tuple[Answer | None, Placed]:
        """One request of the PBX, at the first daemon that takes connections; None: no reply."""
        fields = {"sip_user_id": str(account), "phonenumber": "+31501234567", "call_id": key}
        request = form_request("/api/incoming-call/", fields, keep=False)
        first = self._daemons.index(daemon)
        for each in [*self._daemons[first:], *self._daemons[:first]]:
            placed = self._phones.calls.setdefault(key, Placed(each))
            placed.at = each
            try:
                answer = await each.ask(request, LOST_AFTER_S)
            except TimeoutError:
                return None, placed
            except OSError:
                continue
            self.longest_s = max(self.longest_s, answer.received_at - answer.sent_at)
            return answer, placed
        raise SystemExit("no daemon takes connections")

    def _check(self, key: str, placed: Placed, answer: Answer | None) -> None:
        """Compare the PBX's reply with what the phone did."""
        if answer is None:
            self.counts["lost"] += 1
        elif answer.status != 200 or answer.body != ACK:
            self.counts["answered wrongly"] += 1
        else:
            self.counts["answered"] += 1
            if placed.answer_sent_at and placed.elsewhere is (len(self._daemons) > 1):
                self.took_ms.append((answer.received_at - placed.answer_sent_at) * 1000)
            return
        self.wrong.append(f"{key} at daemon {placed.at.number}: {answer}")


class Faults:
    """Kills one after the other, and does what operators and their tools then do."""

    def __init__(self, servers: Servers, daemons: Sequence[Daemon], *, silent: bool) -> None:
        self._servers = servers
        self._daemons = daemons
        self._silent = silent
        self.began: list[tuple[str, float]] = []

    async def run(self, seconds: float) -> None:
        """A fault at 20, 45 and 70 % of ``seconds``."""
        faults: list[Callable[[], Coroutine[Any, Any, None]]]
        faults = [self._kill_daemon, self._kill_redis_master, self._kill_primary]
        began = time.perf_counter()
        for share, fault in zip((0.2, 0.45, 0.7), faults, strict=True):
            await asyncio.sleep(began + share * seconds - time.perf_counter())
            await fault()

    def _begin(self, name: str) -> None:
        self.began.append((name, time.perf_counter()))

    async def _kill_daemon(self) -> None:
        self._begin("daemon")
        victim = self._daemons[1]
        os.kill(victim.process.pid, 9)
        await asyncio.sleep(RESTART_AFTER_S)
        victim.start()
        await asyncio.to_thread(victim.wait_until_ready)

    async def _kill_redis_master(self) -> None:
        victim = await asyncio.to_thread(lambda: self._servers.redis.masters[0])
        self._begin("redis")
        victim.pause() if self._silent else victim.kill()

    async def _kill_primary(self) -> None:
        self._begin("database")
        primary = self._servers.primary
        primary.pause() if self._silent else primary.kill()
        await asyncio.sleep(NOTICED_AFTER_S)
        await asyncio.to_thread(self._servers.standby.promote)


async def measure(folder: Path, calls: int, per_second: float, *, silent: bool) -> Figures:
    """All three runs."""
    servers, phones = Servers(folder), Phones()
    await phones.start()
    try:
        with daemons_at(folder / "one", 1, servers, "", phones.port) as phones.daemons:
            alone = await steady(phones, per_second)
        sections = servers.sections()
        with daemons_at(folder / "three", 3, servers, sections, phones.port) as daemons:
            phones.daemons = daemons
            together = await steady(phones, per_second)
            watch = Watch(daemons)
            pbx, faults = Calls(phones), Faults(servers, daemons, silent=silent)
            phones.statuses.clear()
            ringing = pbx.at_a_rate(calls, per_second)
            await asyncio.gather(ringing, faults.run(calls / per_second))
            watch.stop()
    finally:
        phones.stop()
        servers.stop()
    for line in pbx.wrong:
        print(line, *log_lines_of(folder / "three", line.split()[0]), sep="\n    ", file=sys.stderr)
    ends = [began for _, began in faults.began[1:]] + [time.perf_counter()]
    return {
        "calls": calls,
        "rate": per_second,
        "faults": "SIGSTOP" if silent else "SIGKILL",
        **{name: pbx.counts[name] for name in NAMES},
        "phone_statuses": {str(status): count for status, count in phones.statuses.items()},
        "outlived_wait_ms": round((pbx.longest_s - WAIT_S) * 1000),
        "answer_to_ack_ms": {
            "in process": middle(alone.took_ms),
            "three daemons": middle(together.took_ms),
            "three daemons, with the faults": middle(pbx.took_ms),
        },
        **{
            name: watch.noticed_s(name, began, end)
            for (name, began), end in zip(faults.began, ends, strict=True)
            if name != "daemon"
        },
        "load": round(os.getloadavg()[0], 1),
    }


NAMES = (
    *("answered", "answered wrongly", "lost"),
    *("own connection died", "repeat answered", "repeat failed"),
)


async def steady(phones: Phones, per_second: float) -> Calls:
    """Calls without faults, after all accounts were registered."""
    await Calls(phones).register()
    calls = Calls(phones)
    await calls.at_a_rate(STEADY_CALLS, per_second)
    if calls.counts != {"answered": STEADY_CALLS}:
        raise SystemExit(f"calls fail without any fault: {calls.counts} {calls.wrong}")
    return calls


def middle(took_ms: list[float]) -> Figures:
    """The median and the 99th percentile."""
    return {
        "p50": round(statistics.median(took_ms), 2),
        "p99": round(percentile(took_ms, 0.99), 2),
    }


def log_lines_of(folder: Path, key: str) -> list[str]:
    """What the daemons logged of a call."""
    lines = []
    for log in sorted(folder.glob("*.log")):
        lines += [f"{log.stem} {line}" for line in log.read_text().splitlines() if key in line]
    return lines


def holds(figures: Figures) -> bool:
    """Whether the goals are met."""
    medians = figures["answer_to_ack_ms"]
    return all(
        (
            figures["answered"] + figures["own connection died"] == figures["calls"],
            figures["repeat failed"] == 0,
            figures["outlived_wait_ms"] <= 1000,
            medians["three daemons"]["p50"] - medians["in process"]["p50"] <= 2,
        )
    )


def table(figures: Figures) -> str:
    """The figures as a table."""
    rows = [(name, str(figures[name])) for name in ("calls", *NAMES)]
    rows.append(("longest held, beyond its wait", f"{figures['outlived_wait_ms']} ms"))
    for name, took in figures["answer_to_ack_ms"].items():
        rows.append((f"answer to ACK, {name}", f"{took['p50']} ms, p99 {took['p99']} ms"))
    for name in ("redis", "database"):
        noticed = figures[name]
        when = (
            f"from {noticed['noticed_after_s']} to {noticed['recovered_after_s']} s after the fault"
        )
        rows.append((f'"{name}": "down" in /health/ of {noticed["daemons"]} daemons', when))
    return "\n".join(f"{name:<52} {value}" for name, value in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=50.0, help="calls per second")
    parser.add_argument("--silent", action="store_true", help="SIGSTOP the servers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="middlewared-failover-") as temporary:
        work = measure(Path(temporary), options.calls, options.rate, silent=options.silent)
        result = asyncio.run(work)
    print(table(result))
    print(json.dumps(result))
    sys.exit(0 if holds(result) else 1)
