"""
One push on its way through pool, connection and stream.

The one invariant: an exchange ends exactly once, with Apple's answer or with the result
that explains why there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from middlewared.push.interface import ConfigFault, Rejected, Temporary, Uncertain


@attrs.frozen
class Response:
    """What Apple answered; ``body`` is JSON unless ``status`` is 200."""

    status: int
    body: bytes = b""
    retry_after: str = ""


OK = Response(200)
"""The answer of almost every push, made once."""

End: TypeAlias = Response | Temporary | Uncertain | ConfigFault | Rejected


class Carrier(Protocol):
    """The connection an exchange was sent on."""

    def give_up(self, exchange: Exchange) -> bool:
        """Reset its stream, as no one waits for the answer; False: try again later."""

    def distrust(self) -> None:
        """Apple answered 5xx here: other connections are preferred for a while."""

    def leave(self, why: str) -> None:
        """Open no more exchanges here: another connection takes the place."""


def always_wanted() -> bool:
    """For pushes that are useful until their deadline."""
    return True


class Exchange:
    """A request as bytes, and the place where its end arrives."""

    __slots__ = (
        "block",
        "body",
        "carrier",
        "deadline",
        "deaths",
        "ended",
        "list_size",
        "over",
        "push_id",
        "refusals",
        "reply",
        "retry_after",
        "send_by",
        "sent",
        "sent_at",
        "status",
        "stream_id",
        "wanted",
        "window",
    )

    def __init__(
        self,
        *,
        block: bytes,
        body: bytes,
        deadline: float,
        wanted: Callable[[], bool] = always_wanted,
        list_size: int = 0,
        push_id: bytes = b"",
    ) -> None:
        """
        :param block: the HPACK header block.
        :param list_size: of its headers, as RFC 9113 section 6.5.2 counts: the octets of each
            name and value, and 32.
        :param deadline: until when its answer is awaited, by the pool's clock.
        :param wanted: called right before it is sent.
        :param push_id: its apns-id.
        """
        self.block = block
        self.body = body
        self.deadline = deadline
        self.send_by = deadline
        """From when on it must not be sent."""

        self.wanted = wanted
        self.list_size = list_size
        self.push_id = push_id
        self.ended: Deferred[End] = Deferred(self._withdraw)
        """Fires with the end. Cancelling it withdraws a push that was not sent yet."""

        self.over = False
        """Whether nobody waits for the end any more."""

        self.carrier: Carrier | None = None
        """The connection it was last sent on; another one is preferred."""

        self.refusals = 0
        self.deaths = 0
        """How many connections broke, or ended with an error, while they had it."""

        self.stream_id = 0
        self.sent = 0
        self.sent_at: float | None = None
        """When its last byte was handed to the transport: since then it may be delivered."""

        self.window = 0
        self.status = 0
        self.reply = b""
        self.retry_after = ""

    def unopened(self) -> None:
        """Forget the stream: it was never processed, another one may carry the push."""
        self.stream_id = 0
        self.sent = 0
        self.sent_at = None
        self.window = 0
        self.status = 0
        self.reply = b""
        self.retry_after = ""

    @property
    def whole(self) -> bool:
        """Whether flow control has let the last byte through."""
        return self.sent == len(self.body)

    def fate(self, reason: str) -> Response | Uncertain | None:
        """
        The result if it is lost for ``reason``: a status that was read stands, a push that
        the peer may have is uncertain; None: the peer cannot have processed it.
        """
        if self.status:
            return self.answer
        return None if self.sent_at is None else Uncertain(reason, self.sent_at)

    @property
    def answer(self) -> Response:
        """The part of the answer that was read."""
        return OK if self.status == 200 else Response(self.status, self.reply, self.retry_after)

    def end(self, end: End) -> None:
        """Tell the end; only the first one counts."""
        if not self.over:
            self.over = True
            self.ended.callback(end)

    def _withdraw(self, _: Deferred[End]) -> None:
        self.over = True
