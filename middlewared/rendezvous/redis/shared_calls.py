"""
The calls as Redis has them: each script, run on the node that has the call, as a function.

A function returns what Redis had after the change, or raises
:class:`~middlewared.errors.RendezvousDown`; the change may have been made then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import attrs

from middlewared.clock import Clock
from middlewared.model import Answer, Call, IncomingCall, Outcome, Settlement, SipUserId
from middlewared.rendezvous.late import REMEMBERED_S, WokenDevice
from middlewared.rendezvous.redis.lua_scripts import (
    ANSWER,
    CANCEL,
    COUNT,
    JOIN,
    LEAVE,
    LIST,
    LISTED,
    RENEW,
    SETTLE,
    SHARE,
    TIME_OUT,
    TIMED_OUT,
)
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.records import (
    SECRET,
    account_key,
    call_from,
    call_text,
    identity_key,
    late_key,
    record_key,
    record_prefix,
    settlement_from,
    settlement_text,
    woken_from,
    woken_text,
)
from middlewared.rendezvous.redis.signed_keys import SignedKeys

NO_WAITER = "-"  # not the id of any waiter
MOST_LISTED = 100
"""How many calls of one account a registration can answer."""


@attrs.frozen
class Joined:
    """
    A call that was opened or joined; its deadline is in ``left_s`` seconds.

    ``waker`` is the id of the waiter that wakes the device, ``pushes`` the number of its
    outstanding pushes.
    """

    call: Call
    settlement: Settlement | None
    left_s: float
    waker: str
    pushes: int


@attrs.frozen
class AnswerStored:
    """
    Redis has the call, which was settled like this or waits (None).

    ``left_to_waker``: the daemon that wakes the device was asked to decide it.
    """

    settlement: Settlement | None
    left_to_waker: bool


@attrs.frozen
class AnswerTooLate:
    """The call timed out ``late_s`` seconds ago."""

    woken: WokenDevice
    late_s: float


@attrs.frozen
class CallCancelled:
    """A call that waited was cancelled, for these waiters."""

    unique_key: str
    waiter_ids: Sequence[str]


@attrs.frozen
class SharedCalls:
    """The records of all daemons' calls. Every function may raise RendezvousDown."""

    clock: Clock
    nodes: Nodes
    keys: SignedKeys

    async def join(self, call: Call, waiter_id: str, *, dead: str = NO_WAITER) -> Joined:
        """
        Open the call, or join the one it repeats.

        :param dead: a waker that has died; ``waiter_id`` takes over from it.
        """
        while True:
            prefix, text = record_prefix(call.unique_key), call_text(call)
            args = (prefix, call.unique_key, text, self._left_ms(call), waiter_id, dead)
            reply = await self.nodes.run(JOIN, _keys(call), args)
            if reply is not None:
                text, answered, left_ms, waker, pushes = reply
                now, left_s = self.clock.seconds(), left_ms / 1000
                joined = call_from(text, deadline=now + left_s)
                joined = attrs.evolve(joined, by_registration=call.by_registration)
                return Joined(joined, self._settlement(answered), left_s, waker, int(pushes))
            call = self.keys.with_fresh_key(call)

    async def renew(
        self,
        call: Call,
        waiter_ids: Sequence[str],
        waker: str,
        pushes: int,
        refusals: Mapping[str, Answer],
    ) -> tuple[Settlement | None, str]:
        """
        Make sure that the call is there and has these waiters.

        :param waker: the one that wakes the device, "" when none of them does.
        :param pushes: the outstanding pushes of the waker.
        :param refusals: those of the phone, by id.
        :return: how the call was settled, and the id of the waiter that wakes the device.
        """
        refused = {id_: settlement_text(Settlement.by(each)) for id_, each in refusals.items()}
        args = (
            *(call.unique_key, call_text(call), self._left_ms(call), waker),
            *(str(pushes) if waker else "", json.dumps(refused) if refused else ""),
            *waiter_ids,
        )
        text, waker = await self.nodes.run(RENEW, _keys(call), args)
        return self._settlement(text), waker

    async def settle(self, unique_key: str, outcome: Outcome) -> Settlement | None:
        """End a call early; returns the decision that stands, None when no such call waits."""
        args = (settlement_text(Settlement(outcome)), unique_key)
        return self._settlement(await self.nodes.run(SETTLE, [record_key(unique_key)], args))

    async def cancel(self, incoming: IncomingCall, request_id: str) -> CallCancelled | bool:
        """
        Cancel the call of this account and call_id.

        :param request_id: of the PBX's request, so that a repeated command changes nothing.
        :return: True: it was answered before; False: Redis knows no such call that waits.
        """
        args = (
            record_prefix(incoming.call_id),
            settlement_text(Settlement(Outcome.CANCELLED)),
            request_id,
        )
        state, *words = await self.nodes.run(CANCEL, [identity_key(incoming)], args)
        if state == "cancelled":
            unique_key, *waiter_ids = words
            return CallCancelled(unique_key, waiter_ids)
        return bool(state == "answered")

    async def answer(
        self, unique_key: str, answer: Answer, pushes: int | None
    ) -> AnswerStored | AnswerTooLate | None:
        """
        Store a phone's answer.

        :param pushes: the outstanding pushes when this daemon is the waker, else None.
        :return: None when Redis knows no such call.
        """
        text = settlement_text(Settlement.by(answer))
        available = "yes" if answer.available else "no"
        keys = [record_key(unique_key), late_key(unique_key)]
        args = (available, answer.id, text, unique_key, "" if pushes is None else str(pushes))
        text, known, woken, left_ms = await self.nodes.run(ANSWER, keys, args)
        if known:
            return AnswerStored(self._settlement(text), left_to_waker=known == 2)
        if woken:
            return AnswerTooLate(woken_from(woken), max(0.0, REMEMBERED_S - left_ms / 1000))
        return None

    async def count(self, unique_key: str, pushes: int | None) -> Settlement | None:
        """
        Store the number of outstanding pushes.

        :param pushes: None: as many as before.
        :return: the decision that stands; None: undecided, or no such call.
        """
        args = ("" if pushes is None else str(pushes), unique_key)
        return self._settlement(await self.nodes.run(COUNT, [record_key(unique_key)], args))

    async def time_out(
        self, unique_key: str, waiter_ids: Sequence[str], woken: WokenDevice | None
    ) -> Settlement | None:
        """
        End a call whose deadline has passed.

        :param waiter_ids: those that wait here.
        :param woken: the device woken here, remembered so that later answers are late.
        :return: the decision that stands; None: Redis does not know the call.
        """
        args = (
            *(settlement_text(Settlement(Outcome.TIMEOUT)), unique_key),
            *(woken_text(woken) if woken is not None else "", str(int(REMEMBERED_S * 1000))),
            *waiter_ids,
        )
        keys = [record_key(unique_key), late_key(unique_key)]
        return self._settlement(await self.nodes.run(TIME_OUT, keys, args))

    async def timed_out(self, unique_key: str, woken: WokenDevice) -> None:
        """Remember that a call timed out now, so that later answers are known to be late."""
        args = (woken_text(woken), str(int(REMEMBERED_S * 1000)))
        await self.nodes.run(TIMED_OUT, [late_key(unique_key)], args)

    async def leave(self, unique_key: str, waiter_id: str) -> bool:
        """Remove a waiter; returns whether the call ends here: no one waits, or another wakes."""
        args = (waiter_id, json.dumps(["gone", unique_key]))
        return bool(await self.nodes.run(LEAVE, [record_key(unique_key)], args))

    async def list_for_account(self, call: Call) -> None:
        """Let a registration of the call's account find it, at any daemon, while it waits."""
        args = (call.unique_key, call.incoming.call_id, self._left_ms(call), str(MOST_LISTED))
        await self.nodes.run(LIST, [account_key(call.incoming.sip_user_id)], args)

    async def listed_for(self, sip_user_id: SipUserId, call_id: str) -> Sequence[str]:
        """
        The keys of the account's calls that were listed; some may be over.

        :param call_id: of the one call; "": all of them.
        """
        words = await self.nodes.run(LISTED, [account_key(sip_user_id)], ())
        listed = zip(words[::2], words[1::2], strict=True)
        return [key for key, its_call_id in listed if call_id in ("", its_call_id)]

    async def share_secret(self) -> None:
        """Share the secret of fresh keys; a Redis that came back empty gets ours again."""
        self.keys.use_secret(await self.nodes.run(SHARE, [SECRET], [self.keys.secret_to_offer]))

    def _settlement(self, text: str) -> Settlement | None:
        return settlement_from(text, received_at=self.clock.seconds()) if text else None

    def _left_ms(self, call: Call) -> str:
        return str(max(1, int((call.deadline - self.clock.seconds()) * 1000)))


def _keys(call: Call) -> list[str]:
    identity = identity_key(call.incoming)
    return [record_key(call.unique_key), *([identity] if identity else [])]
