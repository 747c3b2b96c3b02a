"""
One request on its way through pool, connection and stream, and its response.

An exchange ends exactly once: with the peer's response, or with the result that explains
why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from middlewared.push.interface import (
    ConfigFault,
    Rejected,
    Temporary,
    Uncertain,
    always_wanted,
)


@attrs.frozen
class Response:
    """
    The peer's response; ``headers`` without the status, their names in lower case.

    The headers of a 200 are not read. Not ``complete``: the rest of the body did not come, or
    is longer than a stream's window.
    """

    status: int
    body: bytes = b""
    headers: Sequence[tuple[bytes, bytes]] = attrs.field(
        default=(), converter=tuple[tuple[bytes, bytes], ...]
    )
    complete: bool = True

    def header(self, name: str) -> str | None:
        """The last value of a header; None: it is absent."""
        lower = name.lower().encode()
        values = [value for each, value in self.headers if each == lower]
        return values[-1].decode("latin-1") if values else None


OK = Response(200)
"""A 200 without a body, created once."""

ExchangeResult: TypeAlias = Response | Temporary | Uncertain | ConfigFault | Rejected


class UsedConnection(Protocol):
    """The connection an exchange was sent on."""

    def distrust(self) -> None:
        """The peer failed here: prefer other connections for a while."""

    def leave(self, why: str, *, ours: bool = False) -> None:
        """
        Open no more exchanges here: another connection takes its place.

        :param ours: the peer reported a fault of our configuration.
        """


class Exchange:
    """An encoded request, the state of its stream, and its result."""

    __slots__ = (
        "answer_by",
        "answer_s",
        "body",
        "connection",
        "deadline",
        "ended",
        "header_block",
        "header_list_size",
        "lost_connections",
        "over",
        "refusals",
        "request_id",
        "response_body",
        "response_headers",
        "send_by",
        "sent",
        "sent_at",
        "status",
        "stream_id",
        "wanted",
        "window_growth",
    )

    def __init__(
        self,
        *,
        header_block: bytes,
        body: bytes,
        deadline: float,
        answer_s: float = inf,
        wanted: Callable[[], bool] = always_wanted,
        header_list_size: int = 0,
        request_id: bytes = b"",
    ) -> None:
        """
        :param header_block: the request's headers, encoded by :mod:`.header_blocks`.
        :param deadline: until when the response is awaited, by the pool's clock.
        :param answer_s: how long it is awaited after the request was sent.
        :param wanted: called right before the request is sent; False drops it.
        :param header_list_size: of the decoded headers, as RFC 9113 section 6.5.2 counts:
            the octets of each name and value, and 32.
        :param request_id: for the sender's own use.
        """
        self.header_block = header_block
        self.body = body
        self.deadline = deadline
        self.send_by = deadline
        """When it is too late to send the request."""

        self.answer_s = answer_s
        self.answer_by = deadline
        """When it is too late for the response; set when the request is sent."""

        self.wanted = wanted
        self.header_list_size = header_list_size
        self.request_id = request_id
        self.ended: Deferred[ExchangeResult] = Deferred(self._withdraw)
        """Fires with the result. Cancelling it withdraws a request that was not sent yet."""

        self.over = False
        """Whether it has ended, or no one waits for its result any more."""

        self.connection: UsedConnection | None = None
        """The connection it was last sent on; another one is preferred."""

        self.refusals = 0
        """How often the peer reset its stream with REFUSED_STREAM."""

        self.lost_connections = 0
        """How many connections broke, or ended with an error, while they had it."""

        self.forget_stream()

    def forget_stream(self) -> None:
        """Reset the stream's state: it was never processed, another one may carry the request."""
        self.stream_id = 0
        self.sent = 0
        self.sent_at: float | None = None
        """When the last byte was handed to the transport: since then it may be delivered."""

        self.window_growth = 0
        """By how much the peer has enlarged the stream's initial window."""

        self.status = 0
        self.response_headers: Sequence[tuple[bytes, bytes]] = ()
        self.response_body = b""

    @property
    def sent_whole(self) -> bool:
        """Whether flow control has let the last byte through."""
        return self.sent == len(self.body)

    def result_if_lost(self, reason: str) -> Response | Uncertain | None:
        """
        The result if the rest of the response will not come, for ``reason``.

        A status that was read stands; a request that the peer may have is uncertain. None:
        the peer cannot have processed it.
        """
        if self.status:
            return self.partial_response
        return None if self.sent_at is None else Uncertain(reason, self.sent_at)

    @property
    def response(self) -> Response:
        """The whole response; :data:`OK` for a 200 without a body."""
        if self.status == 200 and not self.response_body:
            return OK
        return Response(self.status, self.response_body, self.response_headers)

    @property
    def partial_response(self) -> Response:
        """The part of the response that was read, at least its status."""
        return Response(self.status, self.response_body, self.response_headers, False)

    def end_late(self) -> None:
        """End it because no response came by ``answer_by``."""
        reason = "deadline" if self.answer_by == self.deadline else "timeout"
        self.end(self.result_if_lost(reason) or Temporary(reason))

    def end(self, result: ExchangeResult) -> None:
        """Report the result; only the first one counts."""
        if not self.over:
            self.over = True
            self.ended.callback(result)

    def _withdraw(self, _: Deferred[ExchangeResult]) -> None:
        self.over = True
