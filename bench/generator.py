"""
A load generator for calls: PBX connections and phones on raw sockets, in one process.

It speaks just enough HTTP/1.1 to cost far less than the daemon it measures, and tells
its own share of CPU so that one can see that it was not the bottleneck.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from twisted.internet.protocol import Factory, Protocol

CRLF = b"\r\n"


def form_request(path: str, fields: dict[str, str], headers: str = "") -> bytes:
    """The bytes of a form POST."""
    body = urlencode(fields).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Exchange(Protocol):
    """One connection with at most one request under way at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._told: Callable[[bytes, bytes], None] | None = None
        self.sent_at = 0.0

    def ask(self, request: bytes, told: Callable[[bytes, bytes], None]) -> None:
        """Send ``request``; ``told`` gets head and body of the answer, b"" when it was cut off."""
        self._told = told
        self.sent_at = time.time()
        self.transport.write(request)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(CRLF + CRLF)
        if not found:
            return
        length = 0
        for line in head.split(CRLF)[1:]:
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        if len(rest) >= length:
            self._received = rest[length:]
            self._tell(head, rest[:length])

    def connectionLost(self, reason: Any = None) -> None:
        self._tell(b"", b"")

    def _tell(self, head: bytes, body: bytes) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(head, body)


class Connections:
    """Kept connections to one address; a new one is made when none is idle."""

    def __init__(self, *, reactor: Any, host: str, port: int) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._idle: list[Exchange] = []
        self.opened = 0

    def ask(self, request: bytes, told: Callable[[bytes, bytes, float], None]) -> None:
        """Send ``request`` on an idle or a new connection; ``told`` also gets when it was sent."""
        if self._idle:
            self._ask(self._idle.pop(), request, told)
            return
        self.opened += 1
        factory = _Connecting(lambda exchange: self._ask(exchange, request, told))
        self._reactor.connectTCP(self._host, self._port, factory, timeout=30)

    def _ask(
        self, exchange: Exchange, request: bytes, told: Callable[[bytes, bytes, float], None]
    ) -> None:
        def answered(head: bytes, body: bytes) -> None:
            if head and b"connection: close" not in head.lower():
                self._idle.append(exchange)
            told(head, body, exchange.sent_at)

        exchange.ask(request, answered)

    def close(self) -> None:
        """Close the idle ones."""
        for exchange in self._idle:
            exchange.transport.loseConnection()  # type: ignore[union-attr]


class _Connecting(Factory[Exchange]):
    noisy = False

    def __init__(self, connected: Callable[[Exchange], None]) -> None:
        self._connected = connected

    def buildProtocol(self, addr: Any) -> Exchange:
        connected = self._connected

        class Connected(Exchange):
            def connectionMade(self) -> None:
                connected(self)

        return Connected()

    def startedConnecting(self, connector: Any) -> None: ...

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        raise SystemExit(f"cannot connect: {reason.getErrorMessage()}")

    def clientConnectionLost(self, connector: Any, reason: Any) -> None: ...


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` (0..1) of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def own_cpu_s() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_s(pid: int) -> float:
    """CPU seconds of another process so far (proc(5), stat fields 14 and 15)."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def rss_kib(pid: int) -> int:
    """Resident memory of another process in KiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
