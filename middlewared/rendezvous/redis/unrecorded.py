"""
Calls that only the daemons themselves know of, not Redis.

A daemon opens such a call while Redis is away, and a failover may lose the record of any.
Other daemons are asked only when there is reason to believe this, since each question
disturbs all of them; and one that cannot be asked makes an unknown key a doubtful one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.model import Settlement
from middlewared.rendezvous.held import Held, HeldCalls
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.peers import AnyPeers
from middlewared.rendezvous.redis.questions import ASK_WAIT_S, MOST_OPEN, Questions
from middlewared.rendezvous.redis.records import EVERYBODY, settlement_from, settlement_text

ASK_WAIT_IN_TROUBLE_S = 1.0  # while a master is away the daemons are all that knows
MOST_GUESSES = 50  # questions open for keys that may be anybody's invention
COME_BACK_S = 5.0  # so long after Redis came back here another daemon may still be without it

ANSWERED = "answered"  # did this answer decide a call that waits at your place?
WAKING = "waking"  # do you wake the device of this call?


class UnrecordedCalls:
    """
    Asks other daemons of calls, and replies to their questions.

    :param joining: the keys of calls for which Redis was asked and has not replied.
    :param recognises: whether a key is surely one of ours.
    :ivar questions: where messages between daemons are handed in.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        background: Background,
        channel: str,
        publish: Callable[[str, str], Awaitable[None]],
        held: HeldCalls,
        joining: Counter[str],
        recognises: Callable[[str], bool],
        nodes: Nodes,
        peers: AnyPeers,
    ) -> None:
        self._clock = clock
        self._held = held
        self._joining = joining
        self._recognises = recognises
        self._nodes = nodes
        self._peers = peers
        self.questions = Questions(
            clock=clock,
            background=background,
            channel=channel,
            publish=publish,
            reply=self._reply,
        )

    async def answered(
        self, held: Held | None, unique_key: str, settlement: Settlement, *, down: bool
    ) -> bool:
        """
        Settle a call that Redis does not know at the daemons where it waits, if any.

        :param held: the call, when it is held here.
        :param down: Redis did not answer.
        :raises RendezvousDown: too much is being asked already.
        """
        if held is None and not down and not self._nodes.troubled_lately:
            return False
        here = self._answered_here(unique_key, settlement)
        there = await self.questions.ask(
            EVERYBODY,
            *(ANSWERED, unique_key, settlement_text(settlement)),
            wait_s=ASK_WAIT_IN_TROUBLE_S if down else ASK_WAIT_S,
            most=MOST_OPEN if self._recognises(unique_key) else MOST_GUESSES,
        )
        return here or there

    async def is_woken_by(self, daemon: str, unique_key: str) -> bool:
        """
        Whether the daemon that listens to the channel ``daemon`` wakes the call's device.

        :raises RendezvousDown: too much is being asked already.
        """
        return await self.questions.ask(daemon, WAKING, unique_key)

    def all_are_heard(self) -> bool:
        """Whether Redis speaks for every daemon: none has lost it, or may have just now."""
        since = max(self._nodes.connected_at, self._nodes.troubled_at)
        lately = self._clock.seconds() - since <= COME_BACK_S
        return self._peers.all_have_redis(since if lately else None)

    def _answered_here(self, unique_key: str, settlement: Settlement) -> bool:
        held = self._held.find(unique_key)
        if held is None:
            return False
        answer = settlement.answer
        if held.waits and answer is not None and not answer.available:
            self._held.refuse(held, answer)
        elif held.waits:
            self._held.settle(held, settlement)
        return held.waits or held.answered

    def _reply(self, question: str, unique_key: str, text: str = "") -> bool:
        """What another daemon wants to know."""
        if question == ANSWERED:
            settlement = settlement_from(text, received_at=self._clock.seconds())
            return self._answered_here(unique_key, settlement)
        if question != WAKING:
            return False
        # Another's question may come before the reply that makes us the call's waker.
        held = self._held.find(unique_key)
        return unique_key in self._joining or (held is not None and held.wakes)
