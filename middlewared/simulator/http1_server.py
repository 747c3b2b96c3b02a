"""
Simulator: the common part of the servers that speak HTTP/1.1 (Google, accounts).

A request plays the steps of its plan in order, and the first reply
ends it. A request that was given up, or whose server stopped, leaves no delayed call.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from middlewared.clock import DelayedCall
from middlewared.simulator.http2.frame_steps import FrameStep
from middlewared.simulator.listening import ListeningSocket, ServerTLS
from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall

BREAK_S = 0.05
"""Between the last byte of a :class:`BreakOff` and the reset, which discards unread bytes."""


@attrs.frozen
class HttpReply:
    """An answer as it goes on the wire."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=UTF-8"
    headers: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class BreakOff:
    """The head of ``reply`` and half of its body, then a TCP reset."""

    reply: HttpReply


HttpStep: TypeAlias = (
    HttpReply | Delay | Deliver | Stall | ResetConnection | HangUp | BreakOff | FrameStep
)


def json_reply(
    status: int, document: Any, *, retry_after: str | None = None, indent: int | None = None
) -> HttpReply:
    """Make a JSON reply."""
    headers = () if retry_after is None else (("Retry-After", retry_after),)
    return HttpReply(status, json.dumps(document, indent=indent).encode(), headers=headers)


def html_reply(status: int = 502) -> HttpReply:
    """Answer as a broken balancer does."""
    body = f"<!DOCTYPE html><title>Error {status}</title><p>That is all we know.".encode()
    return HttpReply(status, body, "text/html; charset=UTF-8")


@attrs.frozen
class Received:
    """
    One request; header names in lower case, of repeated headers the last.

    ``connection`` and ``stream_id`` are those of HTTP/2; over HTTP/1.1 they are 0.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    received_at: float
    connection: int = 0
    stream_id: int = 0


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class HttpServer(abc.ABC):
    """
    A server on loopback whose answers are planned request by request, over HTTP/1.1.

    :param certificate: PEM file of certificate and key: https; None: http.
    """

    _reactor: Any
    _certificate: Path | None = None
    request_count: int = attrs.field(default=0, init=False)
    _socket: ListeningSocket = attrs.field(init=False)

    @_socket.default
    def _new_socket(self) -> ListeningSocket:
        return ListeningSocket(reactor=self._reactor)

    @abc.abstractmethod
    def plan(self, received: Received) -> Iterator[HttpStep]:
        """Yield the steps that answer ``received``; run only as far as it is played."""

    def begin(self, received: Received) -> Iterator[HttpStep]:
        """Count a request, and give its plan."""
        self.request_count += 1
        return self.plan(received)

    @property
    def url(self) -> str:
        """Base URL without a trailing slash, once started."""
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{self._socket.address}"

    @property
    def connections_opened(self) -> int:
        """How many connections were made since the start."""
        return self._socket.connections_opened

    async def start(self) -> int:
        """Listen and give the port; a second start takes the same port."""
        site: Any = Site(_Leaf(self._reactor, self), reactor=self._reactor)
        site.noisy = False
        site.log = lambda _request: None  # an access log would cost a tenth of the time
        if self._certificate is None:
            return self._socket.open(site)
        return self._socket.open(self.secure(ServerTLS(self._certificate), site))

    def secure(self, tls: ServerTLS, site: Factory[Any]) -> Factory[Any]:
        """Give the factory for connections over TLS."""
        return tls.wrap(site)

    def standing_fields(self) -> Sequence[tuple[str, str]]:
        """Give the header fields that every answer has; names in lower case."""
        return ()

    async def stop(self) -> None:
        """Stop listening and reset all connections."""
        await self._socket.close()

    def drop_connections(self) -> None:
        """Reset every connection, and go on listening."""
        self._socket.drop_connections()


class _Leaf(Resource):
    """Hands every request to the server's plan."""

    isLeaf = True

    def __init__(self, reactor: Any, server: HttpServer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._server = server

    def render(self, request: Request) -> int:
        content: Any = request.content
        received = Received(
            method=request.method.decode("latin-1"),
            path=request.uri.decode("latin-1"),
            headers={
                name.decode("latin-1").lower(): values[-1].decode("latin-1")
                for name, values in request.requestHeaders.getAllRawHeaders()
            },
            body=content.read(),
            received_at=self._reactor.seconds(),
        )
        fields = self._server.standing_fields()
        for name, _ in fields:
            request.responseHeaders.removeHeader(name)
        for name, text in fields:
            request.responseHeaders.addRawHeader(name, text)
        _Performance(self._reactor, request, self._server.begin(received)).proceed()
        return NOT_DONE_YET


class _Performance:
    """One request's plan being played."""

    def __init__(self, reactor: Any, request: Request, steps: Iterator[HttpStep]) -> None:
        self._reactor = reactor
        self._request = request
        self._steps = steps
        self._waiting: DelayedCall | None = None
        self._over = False
        request.notifyFinish().addErrback(self._ended)

    def proceed(self) -> None:
        """Play to the step that waits or answers."""
        self._waiting = None
        for step in self._steps:
            match step:
                case HttpReply():
                    return self._reply(step)
                case Delay(seconds):
                    self._waiting = self._reactor.callLater(seconds, self.proceed)
                    return None
                case ResetConnection():
                    self._transport.abortConnection()
                    return None
                case HangUp():
                    # Otherwise it waits for the producer of the answer.
                    self._transport.unregisterProducer()
                    self._transport.loseConnection()
                    return None
                case BreakOff(reply):
                    return self._break_off(reply)
                case Stall():
                    return None
                case Deliver():
                    pass  # the plan's own business
                case _:
                    return self._reply(HttpReply(505, f"needs HTTP/2: {step}".encode()))
        return self._reply(HttpReply(500))

    @property
    def _transport(self) -> Any:
        channel: Any = self._request.channel
        return channel.transport

    def _break_off(self, reply: HttpReply) -> None:
        self._begin(reply)
        self._request.write(reply.body[: len(reply.body) // 2])
        # TLS sends what was written in the next iteration; a reset could overtake it.
        self._waiting = self._reactor.callLater(BREAK_S, self._reset)

    def _reset(self) -> None:
        self._waiting = None
        self._transport.abortConnection()

    def _reply(self, reply: HttpReply) -> None:
        self._begin(reply)
        self._request.write(reply.body)
        self._request.finish()

    def _begin(self, reply: HttpReply) -> None:
        request = self._request
        request.setResponseCode(reply.status)
        if reply.body:
            request.setHeader("Content-Type", reply.content_type)
        request.setHeader("Content-Length", str(len(reply.body)))
        for name, value in reply.headers:
            request.setHeader(name, value)

    def _ended(self, failure: Failure) -> None:
        failure.trap(ConnectionClosed, CancelledError)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
