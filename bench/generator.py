"""
A load generator for calls: PBX connections and phones on plain sockets, in one process.

It speaks just enough HTTP/1.1 to cost a small part of what the daemon costs, and times
are of this process's clock alone: from the call that sends to the bytes that came back.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import NamedTuple
from urllib.parse import urlencode

END = b"\r\n\r\n"
MOST_CONNECTING = 32
TICK_S = os.sysconf("SC_CLK_TCK")


class Answer(NamedTuple):
    """An HTTP answer; status 0: the connection was lost. Times are of ``perf_counter``."""

    status: int
    body: bytes
    sent_at: float
    received_at: float


def form_request(
    path: str, fields: dict[str, str], headers: str = "", *, keep: bool = True
) -> bytes:
    """The bytes of a form POST, after which the connection is kept or closed."""
    body = urlencode(fields)
    ending = "" if keep else "Connection: close\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}{ending}"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        f"{body}"
    ).encode()


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = b""
        self._sent_at = 0.0
        self._asked: asyncio.Future[Answer] | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send ``request``."""
        self._asked = asyncio.get_running_loop().create_future()
        self._sent_at = time.perf_counter()
        self.transport.write(request)
        return self._asked

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._received += data
        head, found, body = self._received.partition(END)
        if not found:
            return
        head = head.lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length:
            self._received = b""
            self.open = b"\r\nconnection: close" not in head
            self._report(Answer(int(head[9:12]), body, self._sent_at, now))

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._report(Answer(0, b"", self._sent_at, time.perf_counter()))

    def _report(self, answer: Answer) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and not asked.done():
            asked.set_result(answer)


class Client:
    """Kept connections to daemons, which are asked in turn."""

    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        self._addresses = addresses
        self._turn = 0
        self._idle: dict[tuple[str, int], list[Connection]] = {each: [] for each in addresses}
        self._connecting = asyncio.Semaphore(MOST_CONNECTING)
        self.opened = 0

    async def ask(self, request: bytes) -> Answer:
        """Send ``request`` on an idle connection, or on a new one when there is none."""
        address = self._addresses[self._turn % len(self._addresses)]
        self._turn += 1
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.open:
                break
        else:
            connection = await self._connect(address)
        answer = await connection.ask(request)
        if connection.open:
            idle.append(connection)
        else:
            connection.transport.close()
        return answer

    async def _connect(self, address: tuple[str, int]) -> Connection:
        async with self._connecting:
            self.opened += 1
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, *address)
            return connection

    def close(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.transport.close()
            idle.clear()


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` (0..1) of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its threads so far (proc(5), stat fields 14 and 15)."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_S


def rss_kib(pid: int) -> int:
    """Resident memory of a process in KiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def steady() -> None:
    """Keep this process's own garbage collector out of what it measures."""
    gc.collect()
    gc.freeze()
    gc.disable()
