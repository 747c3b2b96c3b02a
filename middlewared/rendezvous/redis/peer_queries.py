"""Queries between daemons over PUBLISH, for what the records in Redis do not hold."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.errors import RendezvousDown
from middlewared.waiting import FairCall

REPLY_WAIT_S = 0.3
MOST_OPEN = 200


class PeerQueries:
    """
    Queries to other daemons, and our replies to theirs.

    Each query has a result after its wait at the latest, as far as this process was running
    meanwhile; silence is a no.

    :param channel: where replies to us are published.
    :param publish: sends a text to a channel; may raise RendezvousDown.
    :param reply: replies to a query of another daemon, from its words.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        background: Background,
        channel: str,
        publish: Callable[[str, str], Awaitable[None]],
        reply: Callable[..., bool],
    ) -> None:
        self._clock = clock
        self._background = background
        self._channel = channel
        self._publish = publish
        self._reply = reply
        self._numbers = itertools.count()
        self._open: dict[int, Deferred[bool]] = {}

    async def ask(
        self, channel: str, *query: str | int, wait_s: float = REPLY_WAIT_S, most: int = MOST_OPEN
    ) -> bool:
        """
        Whether a daemon that listens to ``channel`` replies yes within ``wait_s``.

        :raises RendezvousDown: ``most`` queries are open already.
        """
        if len(self._open) >= most:
            raise RendezvousDown("too many queries to other daemons are open")
        number = next(self._numbers)
        reply = self._open[number] = Deferred()
        silence = FairCall(self._clock, wait_s, reply.callback, False)
        try:
            await self._publish(channel, json.dumps(["asked", self._channel, number, *query]))
            return await reply
        except RendezvousDown:
            return False
        finally:
            del self._open[number]
            silence.cancel()

    def received_query(self, channel: str, number: int, *query: str | int) -> None:
        """Reply to another daemon; only a yes is worth a message."""
        if self._reply(*query):
            self._background.run(self._send_yes(channel, number))

    def received_yes(self, number: int) -> None:
        """A reply to one of our queries; the first counts, later ones change nothing."""
        reply = self._open.get(number)
        if reply is not None and not reply.called:
            reply.callback(True)

    async def _send_yes(self, channel: str, number: int) -> None:
        try:
            await self._publish(channel, json.dumps(["yes", number]))
        except RendezvousDown:
            return
