"""
What daemons ask each other over PUBLISH when the records in Redis do not tell.

A question has an answer within the wait it was given, as far as this process was running
meanwhile; silence is a no. Few questions are open at once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.errors import RendezvousDown
from middlewared.waiting import FairCall

ASK_WAIT_S = 0.3
MOST_OPEN = 200


class Questions:
    """
    Questions to other daemons and the replies of this one.

    :param channel: where replies to us are published.
    :param publish: sends a text to a channel; may raise RendezvousDown.
    :param reply: answers a question of another daemon, from its words.
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
        self._asked: dict[int, Deferred[bool]] = {}

    async def ask(
        self, channel: str, *question: str, wait_s: float = ASK_WAIT_S, most: int = MOST_OPEN
    ) -> bool:
        """
        Whether a daemon that listens to ``channel`` says yes within ``wait_s``.

        :raises RendezvousDown: ``most`` questions are open already.
        """
        if len(self._asked) >= most:
            raise RendezvousDown("too many questions to other daemons are open")
        number = next(self._numbers)
        reply = self._asked[number] = Deferred()
        silence = FairCall(self._clock, wait_s, reply.callback, False)
        try:
            await self._publish(channel, json.dumps(["asked", self._channel, number, *question]))
            return await reply
        except RendezvousDown:
            return False
        finally:
            del self._asked[number]
            silence.cancel()

    def asked(self, channel: str, number: int, *question: str) -> None:
        """Another daemon asks; only a yes is worth a message."""
        if self._reply(*question):
            self._background.run(self._say_yes(channel, number))

    def said_yes(self, number: int) -> None:
        """A reply to one of our questions; the first counts, a second comes too late."""
        reply = self._asked.get(number)
        if reply is not None and not reply.called:
            reply.callback(True)

    async def _say_yes(self, channel: str, number: int) -> None:
        try:
            await self._publish(channel, json.dumps(["yes", number]))
        except RendezvousDown:
            return
