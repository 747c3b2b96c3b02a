"""
An open loop of calls: a PBX that places them at a steady rate, whatever their outcomes.

It is one process that must stay far below a core at thousands of calls a second, so calls
are plain records that connections fill in; there is no task for each.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable

import attrs
from generator import END, MOST_CONNECTING
from load import FIRST_ACCOUNT

ACK = b"status=ACK"
LOST_AFTER_S = 2.0  # beyond the wait: no PBX is left without an answer
SWEEP_S = 0.1
_BODY = b"sip_user_id=%d&phonenumber=%%2B31501234567&caller_id=Alice+of+Sales&call_id=%s"
_REQUEST = (
    b"POST /api/incoming-call/ HTTP/1.1\r\nHost: bench\r\n%s"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s"
)


@attrs.define(eq=False)
class Placed:
    """
    One call; times are of ``perf_counter``.

    :ivar outcome: ACK, the reply's X-Outcome or status, or how the connection ended:
        lost, unanswered, refused by the kernel. Empty while there is none.
    """

    placed_at: float
    request: bytes
    turn: int
    key: str
    tried: int = 1
    ended_at: float = 0.0
    outcome: str = ""
    status: int = 0
    connection: Connection | None = None

    @property
    def took_s(self) -> float:
        """From the placing to the end."""
        return self.ended_at - self.placed_at


class Connection(asyncio.Protocol):
    """One connection of the PBX with at most one call on it."""

    transport: asyncio.Transport

    def __init__(self, pbx: Pbx, address: tuple[str, int]) -> None:
        self._pbx = pbx
        self.address = address
        self._received = b""
        self.call: Placed | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, call: Placed) -> None:
        """Place ``call``."""
        self.call, call.connection = call, self
        self.transport.write(call.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(END)
        if not found:
            return
        low = head.lower()
        length = int(_header(low, b"content-length") or b"0")
        if len(body) < length or self.call is None:
            return
        self._received = b""
        call, self.call = self.call, None
        call.connection = None
        if _header(low, b"connection") == b"close":
            self.open = False
            self.transport.close()
        self._pbx.answered(self, call, int(head[9:12]), body, _header(low, b"x-outcome"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        call, self.call = self.call, None
        if call is not None:
            call.connection = None
            self._pbx.lost(call)


class Pbx:
    """
    Kept connections to daemons, which take turns as behind a balancer.

    :param keep: whether connections are; otherwise each call has a new one.
    :param accounts: registered ones, which are called in turn.
    :param repeats: how often a call refused with 503 is placed at the next daemon.
    :param redispatch: a call whose connection ended without a reply is placed at the next
        daemon, once, as etc/haproxy/haproxy.cfg does (``retry-on empty-response``).
    :ivar latest_s: how far the loop lagged behind its own rate at worst.
    """

    def __init__(
        self,
        addresses: list[tuple[str, int]],
        *,
        accounts: int,
        wait_s: float,
        keep: bool = True,
        repeats: int = 0,
        redispatch: bool = False,
    ) -> None:
        self.calls: list[Placed] = []
        self.latest_s = 0.0
        self._addresses = addresses
        self._accounts = accounts
        self._wait_s = wait_s
        self._keep = keep
        self._repeats = repeats
        self._redispatch = redispatch
        self._idle: dict[tuple[str, int], list[Connection]] = {each: [] for each in addresses}
        self._all: set[Connection] = set()
        self._open: deque[Placed] = deque()
        self._connecting = asyncio.Semaphore(MOST_CONNECTING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping = asyncio.create_task(self._sweep())

    async def connect(self, count: int) -> None:
        """Open connections ahead, so that each daemon has ``count``."""
        for address, idle in self._idle.items():
            while len(idle) < count:
                some = min(MOST_CONNECTING, count - len(idle))
                idle += await asyncio.gather(*[self._connect(address) for _ in range(some)])

    async def offer(self, rate: float, seconds: float) -> list[Placed]:
        """Place calls at a steady rate; they go on when this returns."""
        began, count, placed = time.perf_counter(), int(rate * seconds), 0
        first = len(self.calls)
        while placed < count:
            now = time.perf_counter()
            due = min(count, int((now - began) * rate) + 1)
            self.latest_s = max(self.latest_s, now - began - placed / rate)
            for _ in range(due - placed):
                self.place()
            placed = due
            await asyncio.sleep(max(0.001, began + placed / rate - time.perf_counter()))
        await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
        return self.calls[first:]

    def place(self) -> Placed:
        """Place one call."""
        number = len(self.calls)
        key = str(uuid.uuid4())
        body = _BODY % (FIRST_ACCOUNT + number % self._accounts, key.encode())
        ending = b"" if self._keep else b"Connection: close\r\n"
        request = _REQUEST % (ending, len(body), body)
        call = Placed(time.perf_counter(), request, number, key)
        self.calls.append(call)
        self._open.append(call)
        self._send(call)
        return call

    async def ended(self, calls: Iterable[Placed]) -> None:
        """Wait until each of ``calls`` has its outcome; the sweep sees to it."""
        for call in calls:
            while not call.outcome:  # noqa: ASYNC110 (an event for each call would cost more)
                await asyncio.sleep(0.02)

    def hang_up(self) -> int:
        """Reset all connections at once; how many had a call."""
        busy = [each for each in self._all if each.call is not None and each.open]
        for connection in busy:
            connection.transport.abort()
        return len(busy)

    def close(self) -> None:
        """Close everything."""
        self._sweeping.cancel()
        for task in self._tasks:
            task.cancel()
        for connection in self._all:
            connection.transport.abort()

    def answered(
        self, connection: Connection, call: Placed, status: int, body: bytes, outcome: bytes
    ) -> None:
        """A reply has come."""
        if connection.open and self._keep:
            self._idle[connection.address].append(connection)
        else:
            self._all.discard(connection)
        if status == 503 and call.tried <= self._repeats and not call.outcome:
            self._again(call)
        else:
            acked = status == 200 and body == ACK
            self._end(call, "ACK" if acked else (outcome.decode() or str(status)), status)

    def lost(self, call: Placed) -> None:
        """A connection with a call on it has ended."""
        if self._redispatch and call.tried == 1 and not call.outcome:
            self._again(call)
        else:
            self._end(call, "lost", 0)

    def _send(self, call: Placed) -> None:
        idle = self._idle[self._addresses[call.turn % len(self._addresses)]]
        while idle:
            connection = idle.pop()
            if connection.open:
                connection.send(call)
                return
        task = asyncio.create_task(self._send_on_new(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_on_new(self, call: Placed) -> None:
        try:
            connection = await self._connect(self._addresses[call.turn % len(self._addresses)])
        except OSError:
            if call.tried < len(self._addresses):
                self._again(call)
            else:
                self._end(call, "refused", 0)
            return
        if call.outcome:
            self._idle[connection.address].append(connection)
        else:
            connection.send(call)

    def _again(self, call: Placed) -> None:
        call.tried += 1
        call.turn += 1
        self._send(call)

    async def _connect(self, address: tuple[str, int]) -> Connection:
        async with self._connecting:
            loop = asyncio.get_running_loop()
            create: Callable[[], Connection] = lambda: Connection(self, address)  # noqa: E731
            _, connection = await loop.create_connection(create, *address)
            self._all.add(connection)
            return connection

    def _end(self, call: Placed, outcome: str, status: int) -> None:
        if not call.outcome:
            call.outcome, call.status, call.ended_at = outcome, status, time.perf_counter()
            call.request = b""

    async def _sweep(self) -> None:
        """Give up calls that have no reply long after their wait."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.perf_counter()
            while self._open:
                call = self._open[0]
                if not call.outcome and now - call.placed_at < self._wait_s + LOST_AFTER_S:
                    break
                self._open.popleft()
                if not call.outcome:
                    self._end(call, "unanswered", 0)
                    if call.connection is not None:
                        call.connection.transport.abort()


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()
