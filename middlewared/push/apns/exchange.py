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

from middlewared.push.interface import ConfigFault, Rejected, Temporary


@attrs.frozen
class Answer:
    """What Apple answered; ``body`` is JSON unless ``status`` is 200."""

    status: int
    body: bytes = b""
    retry_after: str = ""


OK = Answer(200)
"""The answer of almost every push, made once."""

End: TypeAlias = Answer | Temporary | ConfigFault | Rejected


class Carrier(Protocol):
    """The connection an exchange was sent on."""

    def give_up(self, exchange: Exchange) -> None:
        """End its stream: nobody waits for the answer."""

    def distrust(self) -> None:
        """Apple answered 5xx here: other connections are preferred for a while."""

    def leave(self) -> None:
        """Open no more exchanges here: another connection takes the place."""


def always_wanted() -> bool:
    """For pushes that are of use until their deadline."""
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
        "refusals",
        "reply",
        "retry_after",
        "sent",
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
    ) -> None:
        """
        :param block: the HPACK header block.
        :param list_size: of its headers, as RFC 9113 section 6.5.2 counts: the octets of each
            name and value, and 32.
        :param deadline: when it must not be sent any more, by the pool's clock.
        :param wanted: asked right before it is sent.
        """
        self.block = block
        self.body = body
        self.deadline = deadline
        self.wanted = wanted
        self.list_size = list_size
        self.ended: Deferred[End] = Deferred(self._withdraw)
        """Fires with the end. Cancelling it withdraws a push that was not sent yet."""

        self.over = False
        """Whether nobody waits for the end any more."""

        self.carrier: Carrier | None = None
        self.refusals = 0
        self.deaths = 0
        """How many connections broke, or ended with an error, while they had it."""

        self.unopened()

    def unopened(self) -> None:
        """Forget the stream: it was never processed, another one may carry the push."""
        self.stream_id = 0
        self.sent = 0
        self.window = 0
        self.status = 0
        self.reply = b""
        self.retry_after = ""

    @property
    def whole(self) -> bool:
        """Whether the last byte was sent; before that the peer cannot have processed it."""
        return self.sent == len(self.body)

    def end(self, end: End) -> None:
        """Tell the end; only the first one counts."""
        if not self.over:
            self.over = True
            self.ended.callback(end)

    def _withdraw(self, _: Deferred[End]) -> None:
        self.over = True
