"""
Simulator: phones that answer every call, fast enough for benchmarks.

The one invariant: one request at a time on each kept connection, and never more
connections than the bound; answers above it wait in line.

HTTP is written by hand because a general client costs more than the daemon it would
measure. Answers are read only as far as their status.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any
from urllib.parse import quote, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from middlewared.background import Background
from middlewared.clock import DelayedCall
from middlewared.simulator.apple.push import ReceivedPush
from middlewared.simulator.google_rules import GooglePush

MAX_CONNECTIONS = 64


class Answering:
    """
    Answers call pushes of any token at their response_api (http only).

    It is a listener of Apple and Google. ``statuses`` counts the daemon's answers;
    status 0 are those that a lost connection left without one.

    :param at: addresses (host:port) that take turns in place of the response_api's own, as
        daemons behind a load balancer do.
    """

    def __init__(
        self, *, reactor: Any, delay_s: float, available: bool = True, at: Sequence[str] = ()
    ) -> None:
        self.statuses: dict[int, int] = {}
        self._reactor = reactor
        self._delay_s = delay_s
        self._available = "true" if available else "false"
        self._turns = cycle(at)
        self._lines: dict[str, _Line] = {}
        self._calls: set[DelayedCall] = set()

    def __call__(self, push: ReceivedPush | GooglePush) -> None:
        """Answer a push after the delay."""
        data = push.payload if isinstance(push, ReceivedPush) else push.data
        if "response_api" not in data:
            return

        def answer() -> None:
            self._calls.discard(call)
            self._answer(data["response_api"], data["unique_key"], data["message_start_time"])

        call = self._reactor.callLater(self._delay_s, answer)
        self._calls.add(call)

    async def stop(self) -> None:
        """Give up all answers and close all connections."""
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        for line in self._lines.values():
            await line.stop()

    def _answer(self, url: str, unique_key: str, start: object) -> None:
        parts = urlsplit(url)
        address = next(self._turns, parts.netloc)
        line = self._lines.get(address)
        if line is None:
            at = urlsplit(f"//{address}")
            line = _Line(self._reactor, at.hostname or "", at.port or 80, self._count)
            self._lines[address] = line
        body = (
            f"unique_key={quote(unique_key)}&message_start_time={start}&available={self._available}"
        )
        line.send(
            (
                f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                f"Content-Type: application/x-www-form-urlencoded\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode("ascii")
        )

    def _count(self, status: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


class _Line:
    """The connections to one address, and the requests that wait for one."""

    def __init__(self, reactor: Any, host: str, port: int, tell: Callable[[int], None]) -> None:
        self.tell = tell
        self._endpoint: Any = HostnameEndpoint(reactor, host, port)
        self._factory: Any = Factory.forProtocol(lambda: _Asker(self))
        self._factory.noisy = False
        self._background = Background()
        self._queue: deque[bytes] = deque()
        self._idle: list[_Asker] = []
        self._askers: set[_Asker] = set()
        self._connecting = 0

    def send(self, request: bytes) -> None:
        """Send now, or when a connection is free."""
        if self._idle:
            self._idle.pop().ask(request)
            return
        self._queue.append(request)
        self._grow()

    def free(self, asker: _Asker) -> None:
        """A connection has its answer."""
        if self._queue:
            asker.ask(self._queue.popleft())
        else:
            self._idle.append(asker)

    def lost(self, asker: _Asker) -> None:
        """A connection has ended."""
        self._askers.discard(asker)
        if asker in self._idle:
            self._idle.remove(asker)
        if self._queue:
            self._grow()

    def _grow(self) -> None:
        if len(self._askers) + self._connecting < MAX_CONNECTIONS:
            self._connecting += 1
            self._background.run(self._connect())

    async def stop(self) -> None:
        """Close all connections."""
        self._queue.clear()
        self._background.cancel()
        await self._background.finish()
        for asker in list(self._askers):
            await asker.stop()

    async def _connect(self) -> None:
        try:
            asker = await self._endpoint.connect(self._factory)
        except (ConnectError, DNSLookupError):
            self.tell(0)
            if self._queue:
                self._queue.popleft()
            return
        finally:
            self._connecting -= 1
        self._askers.add(asker)
        self.free(asker)


class _Asker(Protocol):
    """One kept connection."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._unread = b""
        self._asked = False
        self._ended: Deferred[None] = Deferred()

    def ask(self, request: bytes) -> None:
        """Send a request; the line hears of its answer."""
        transport: Any = self.transport
        self._asked = True
        self._unread = b""
        transport.write(request)

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        if self._asked and _is_whole(self._unread):
            self._asked = False
            self._line.tell(int(self._unread[9:12]))
            self._line.free(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        self._line.lost(self)
        if self._asked:
            self._line.tell(0)
        self._ended.callback(None)

    async def stop(self) -> None:
        """Reset the connection."""
        transport: Any = self.transport
        self._asked = False
        transport.abortConnection()
        await self._ended


def _is_whole(answer: bytes) -> bool:
    """Whether an HTTP answer is there to its end."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    head = head.lower()
    if b"\r\ntransfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length or b"0")
