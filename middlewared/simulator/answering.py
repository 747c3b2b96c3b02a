"""
Simulator: phones that answer every call, fast enough for benchmarks.

An answer waits for no other one. Each has a connection to itself, kept
for a later answer; above the bound of connections an answer is not sent.

HTTP is written by hand because a general client costs more than the daemon it would
measure. Answers are read only as far as their status.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from middlewared.background import Background
from middlewared.clock import DelayedCall
from middlewared.simulator.record import AnyPush

MAX_CONNECTIONS = 4000
ANSWER_TIMEOUT_S = 5.0
_OnStatus = Callable[[int], None]


@attrs.define(kw_only=True, eq=False, repr=False)
class Answering:
    """
    Answers call pushes of any token at their response_api (http only).

    It is a listener of Apple and Google. ``statuses`` counts what the phones got in the
    end; status 0 are those that got nothing.

    :param at: addresses (host:port) that take turns in place of the response_api's own, as
        daemons behind a load balancer do: the next one is asked when one is gone or
        answers 503.
    :param silent: phones whose token ends in one of these characters do not answer.
    """

    _reactor: Any
    _delay_s: float
    _at: Sequence[str] = ()
    _silent: str = ""
    statuses: Counter[int] = attrs.field(factory=Counter, init=False)
    _turn: int = attrs.field(default=0, init=False)
    _lines: dict[str, _Line] = attrs.field(factory=dict, init=False)
    _calls: set[DelayedCall] = attrs.field(factory=set, init=False)

    def __call__(self, push: AnyPush) -> None:
        """Answer a push after the delay."""
        data = push.data
        if "response_api" not in data or push.token[-1] in self._silent:
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
        body = f"unique_key={quote(unique_key)}&message_start_time={start}&available=true"
        request = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode("ascii")
        self._turn += 1
        self._send(request, self._at or [parts.netloc], self._turn, 0)

    def _send(self, request: bytes, addresses: Sequence[str], turn: int, tried: int) -> None:
        def on_status(status: int) -> None:
            if status in (0, 503) and tried + 1 < len(addresses):
                self._send(request, addresses, turn, tried + 1)
            else:
                self.statuses[status] += 1

        self._line(addresses[(turn + tried) % len(addresses)]).send(request, on_status)

    def _line(self, address: str) -> _Line:
        line = self._lines.get(address)
        if line is None:
            at = urlsplit(f"//{address}")
            line = _Line(self._reactor, at.hostname or "", at.port or 80)
            self._lines[address] = line
        return line


class _Line:
    """The connections to one address."""

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self._reactor = reactor
        self._endpoint: Any = HostnameEndpoint(reactor, host, port)
        self._factory: Any = Factory.forProtocol(lambda: _Asker(self, reactor))
        self._factory.noisy = False
        self._background = Background()
        self._idle: list[_Asker] = []
        self._askers: set[_Asker] = set()
        self._connecting = 0

    def send(self, request: bytes, on_status: _OnStatus) -> None:
        """Send on an idle connection or a new one; ``on_status`` gets the status."""
        if self._idle:
            self._idle.pop().ask(request, on_status)
        elif len(self._askers) + self._connecting < MAX_CONNECTIONS:
            self._connecting += 1
            self._background.run(self._connect(request, on_status))
        else:
            on_status(0)

    def free(self, asker: _Asker) -> None:
        """A connection has its answer."""
        self._idle.append(asker)

    def lost(self, asker: _Asker) -> None:
        """A connection has ended."""
        self._askers.discard(asker)
        if asker in self._idle:
            self._idle.remove(asker)

    async def stop(self) -> None:
        """Close all connections."""
        self._background.cancel()
        await self._background.finish()
        for asker in list(self._askers):
            await asker.stop()

    async def _connect(self, request: bytes, on_status: _OnStatus) -> None:
        try:
            asker = await self._endpoint.connect(self._factory)
        except (ConnectError, DNSLookupError):
            on_status(0)
            return
        finally:
            self._connecting -= 1
        self._askers.add(asker)
        asker.ask(request, on_status)


class _Asker(Protocol):
    """One kept connection."""

    transport: Any

    def __init__(self, line: _Line, reactor: Any) -> None:
        self._line = line
        self._reactor = reactor
        self._unread = b""
        self._on_status: _OnStatus | None = None
        self._limit: DelayedCall | None = None
        self._ended: Deferred[None] = Deferred()

    def ask(self, request: bytes, on_status: _OnStatus) -> None:
        """Send a request; ``on_status`` gets the status, 0 when there is none in time."""
        self._on_status = on_status
        self._unread = b""
        self._limit = self._reactor.callLater(ANSWER_TIMEOUT_S, self.transport.abortConnection)
        self.transport.write(request)

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        if self._on_status is not None and _is_whole(self._unread):
            on_status = self._finish()
            self._line.free(self)
            on_status(int(self._unread[9:12]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        self._line.lost(self)
        if self._on_status is not None:
            self._finish()(0)
        self._ended.callback(None)

    async def stop(self) -> None:
        """Reset the connection."""
        if self._on_status is not None:
            self._finish()
        self.transport.abortConnection()
        await self._ended

    def _finish(self) -> _OnStatus:
        """End the request; gives the function that takes its status."""
        on_status, limit = self._on_status, self._limit
        assert on_status is not None
        assert limit is not None
        if limit.active():
            limit.cancel()
        self._on_status = self._limit = None
        return on_status


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
