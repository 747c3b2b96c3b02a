"""
Calls that the daemons hold and Redis does not know.

A daemon opens such a call while Redis is away, and a failover may lose the record of any.
Each query disturbs all daemons, so they are asked only when there is reason to expect such
calls. While one of them cannot be asked, a key that Redis does not know may still be a call's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.errors import RendezvousDown
from middlewared.model import IncomingCall, Settlement, SipUserId
from middlewared.rendezvous.held_calls import HeldCall, HeldCalls
from middlewared.rendezvous.redis.joins_under_way import JoinsUnderWay
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.peer_queries import MOST_OPEN, REPLY_WAIT_S, PeerQueries
from middlewared.rendezvous.redis.peer_reports import PeerReports
from middlewared.rendezvous.redis.records import ALL_DAEMONS, settlement_from, settlement_text

REPLY_WAIT_IN_TROUBLE_S = 1.0  # while a master is away only the daemons know
MOST_GUESSES = 50  # queries open for keys that may be made up
COME_BACK_S = 5.0  # so long after Redis came back here another daemon may still be without it

CANCELLED = "cancelled"  # query: did a call of this account and call_id wait at your daemon?
ANSWERED = "answered"  # query: does this answer decide a call that waits at your daemon?
REGISTERED = "registered"  # query: does this answer decide calls of the account at your daemon?
WAKING = "waking"  # query: do you wake the device of this call?


class UnrecordedCalls:
    """
    Asks other daemons about calls, and replies to their queries.

    :param joins: those for which Redis was asked and has not replied.
    :param knows_key: whether a key is certainly one of ours.
    :param cancel_here: cancels a call for those who wait here; returns whether any did.
    :ivar queries: takes the messages between daemons.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        background: Background,
        channel: str,
        held: HeldCalls,
        joins: JoinsUnderWay,
        knows_key: Callable[[str], bool],
        nodes: Nodes,
        peers: PeerReports,
        cancel_here: Callable[[IncomingCall], bool],
    ) -> None:
        self._clock = clock
        self._held = held
        self._background = background
        self._joins = joins
        self._knows_key = knows_key
        self._nodes = nodes
        self._peers = peers
        self._cancel_here = cancel_here
        self.queries = PeerQueries(
            clock=clock,
            background=background,
            channel=channel,
            publish=nodes.publish,
            reply=self._reply,
        )

    async def answer(
        self, held: HeldCall | None, unique_key: str, settlement: Settlement, *, down: bool
    ) -> bool:
        """
        Settle a call that Redis does not know at the daemons where it waits.

        :param held: the call, when it is held here.
        :param down: Redis did not reply.
        :return: whether it waits or was answered at any daemon.
        :raises RendezvousDown: too many queries are open already.
        """
        if held is None and not down and not self._nodes.troubled_lately:
            return False
        here = self._answer_here(unique_key, settlement)
        there = await self.queries.ask(
            ALL_DAEMONS,
            *(ANSWERED, unique_key, settlement_text(settlement)),
            wait_s=REPLY_WAIT_IN_TROUBLE_S if down else REPLY_WAIT_S,
            most=MOST_OPEN if self._knows_key(unique_key) else MOST_GUESSES,
        )
        return here or there

    async def cancel(self, incoming: IncomingCall, *, down: bool) -> bool:
        """
        Cancel a call that Redis does not know at the daemons where it waits.

        :param down: Redis did not reply.
        :return: whether it waited at any daemon.
        :raises RendezvousDown: too many queries are open already.
        """
        here = self._cancel_here(incoming)
        if not here and not down and not self._nodes.troubled_lately:
            return False
        there = self.queries.ask(
            ALL_DAEMONS,
            *(CANCELLED, incoming.sip_user_id, incoming.call_id),
            wait_s=REPLY_WAIT_IN_TROUBLE_S if down else REPLY_WAIT_S,
        )
        if here:  # the others are only notified
            self._background.run(_ignore_down(there))
            return True
        return await there

    async def answer_account(
        self, sip_user_id: SipUserId, call_id: str, settlement: Settlement, *, down: bool
    ) -> bool:
        """
        Settle calls of an account that are not listed in Redis, at the other daemons.

        :param down: Redis did not reply.
        :return: whether there were any.
        :raises RendezvousDown: too many queries are open already.
        """
        if not down and not self._nodes.troubled_lately:
            return False
        return await self.queries.ask(
            ALL_DAEMONS,
            *(REGISTERED, sip_user_id, call_id, settlement_text(settlement)),
            wait_s=REPLY_WAIT_IN_TROUBLE_S if down else REPLY_WAIT_S,
        )

    async def is_woken_by(self, channel: str, unique_key: str) -> bool:
        """
        Whether the daemon that listens to ``channel`` wakes the call's device.

        :raises RendezvousDown: too many queries are open already.
        """
        return await self.queries.ask(channel, WAKING, unique_key)

    def redis_knows_all(self) -> bool:
        """Whether Redis knows every daemon's calls: none has lost it, or may have just now."""
        since = max(self._nodes.connected_at, self._nodes.troubled_at)
        lately = self._clock.seconds() - since <= COME_BACK_S
        return self._peers.all_have_redis(since if lately else None)

    def _answer_here(self, unique_key: str, settlement: Settlement) -> bool:
        held = self._held.find(unique_key)
        if held is None:
            return False
        answer = settlement.answer
        if held.waiters and answer is not None and not answer.available:
            self._held.refuse(held, answer)
        elif held.waiters:
            self._held.settle(held, settlement)
        return bool(held.waiters) or held.is_answered

    def _reply(self, query: str, *words: Any) -> bool:
        """Our reply to another daemon's query."""
        if query == ANSWERED:
            unique_key, text = words
            settlement = settlement_from(text, received_at=self._clock.seconds())
            return self._answer_here(unique_key, settlement)
        if query == CANCELLED:
            sip_user_id, call_id = words
            return self._cancel_here(IncomingCall(sip_user_id, "", call_id=call_id))
        if query == REGISTERED:
            sip_user_id, call_id, text = words
            settlement = settlement_from(text, received_at=self._clock.seconds())
            answerable = self._held.answerable(sip_user_id, call_id)
            for each in answerable:
                self._held.settle(each, settlement)
            return bool(answerable)
        if query == WAKING:
            (unique_key,) = words
            # A query may arrive before the reply of Redis that makes us the call's waker.
            held = self._held.find(unique_key)
            woken_here = held is not None and held.is_woken_here
            return woken_here or self._joins.has_key(unique_key)
        return False


async def _ignore_down(query: Awaitable[bool]) -> None:
    with contextlib.suppress(RendezvousDown):
        await query
