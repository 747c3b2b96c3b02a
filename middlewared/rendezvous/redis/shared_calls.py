"""
The calls as Redis has them: the scripts, run on the node that has the call, as functions.

The one invariant: what comes back is what Redis had after the change, or
:class:`~middlewared.errors.RendezvousDown`, and then the change may have been made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import attrs

from middlewared.clock import Clock
from middlewared.model import Answer, Call, Outcome, Settlement
from middlewared.rendezvous.late import REMEMBERED_S, Woken
from middlewared.rendezvous.redis.keys import Keys
from middlewared.rendezvous.redis.lua_scripts import (
    ANSWER,
    COUNT,
    EXPIRED,
    JOIN,
    LEAVE,
    RENEW,
    SETTLE,
    SHARE,
)
from middlewared.rendezvous.redis.nodes import Nodes
from middlewared.rendezvous.redis.records import (
    SECRET,
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

NOBODY = "-"  # no member's name


@attrs.frozen
class Joined:
    """
    A call that was opened or joined; it ends in ``left_s``.

    ``waker`` is a member; ``pushes`` is the number of its outstanding pushes.
    """

    call: Call
    settlement: Settlement | None
    left_s: float
    waker: str
    pushes: int


@attrs.frozen
class Heard:
    """
    How Redis took an answer.

    ``known``: there is such a call, waiting or answered. ``settlement``: how it was
    settled, if it was; ``left_to_waker``: its waker was asked to decide it. ``woken`` and
    ``late_s``: of a call that timed out recently.
    """

    known: bool = False
    settlement: Settlement | None = None
    left_to_waker: bool = False
    woken: Woken | None = None
    late_s: float = 0.0


@attrs.frozen
class SharedCalls:
    """The records of all daemons' calls. Every function may raise RendezvousDown."""

    clock: Clock
    nodes: Nodes
    keys: Keys

    async def join(self, call: Call, member: str, *, dead: str = NOBODY) -> Joined:
        """
        Open the call, or join the one it repeats, as ``member``.

        :param dead: a member that cannot wake the device any more: ``member`` is to.
        """
        while True:
            prefix, text = record_prefix(call.unique_key), call_text(call)
            args = (prefix, call.unique_key, text, self._left_ms(call), member, dead)
            reply = await self.nodes.run(JOIN, _keys(call), args)
            if reply is not None:
                text, answered, left_ms, waker, pushes = reply
                now, left_s = self.clock.seconds(), left_ms / 1000
                joined = call_from(text, deadline=now + left_s)
                return Joined(joined, self._settlement(answered), left_s, waker, int(pushes))
            call = self.keys.with_fresh_key(call)

    async def renew(
        self,
        call: Call,
        members: Sequence[str],
        waker: str,
        pushes: int,
        refusals: Mapping[str, Answer],
    ) -> tuple[Settlement | None, str]:
        """
        Make sure that the call is there and has these members.

        :param waker: which of them wakes the device, "" when none does.
        :param pushes: the outstanding pushes of the waker.
        :param refusals: those of the phone, by id.
        :return: how the call was settled, and which member wakes the device.
        """
        refused = {id_: settlement_text(Settlement.by(each)) for id_, each in refusals.items()}
        args = (
            *(call.unique_key, call_text(call), self._left_ms(call), waker),
            *(str(pushes) if waker else "", json.dumps(refused) if refused else ""),
            *members,
        )
        text, waker = await self.nodes.run(RENEW, _keys(call), args)
        return self._settlement(text), waker

    async def settle(self, unique_key: str, outcome: Outcome) -> Settlement | None:
        """End a call early; gives the decision that stands, None when no such call waits."""
        args = (settlement_text(Settlement(outcome)), unique_key)
        return self._settlement(await self.nodes.run(SETTLE, [record_key(unique_key)], args))

    async def answer(self, unique_key: str, answer: Answer, pushes: int | None) -> Heard:
        """
        Store a phone's answer.

        :param pushes: the outstanding pushes when this daemon is the waker, else None.
        """
        text = settlement_text(Settlement.by(answer))
        said = "yes" if answer.available else "no"
        keys = [record_key(unique_key), late_key(unique_key)]
        args = (said, answer.id, text, unique_key, "" if pushes is None else str(pushes))
        text, known, woken, left_ms = await self.nodes.run(ANSWER, keys, args)
        if not woken:
            return Heard(bool(known), self._settlement(text), left_to_waker=known == 2)
        return Heard(woken=woken_from(woken), late_s=max(0.0, REMEMBERED_S - left_ms / 1000))

    async def count(self, unique_key: str, pushes: int | None) -> Settlement | None:
        """
        Store the number of outstanding pushes; gives the decision that stands.

        :param pushes: None: as many as before.
        """
        args = ("" if pushes is None else str(pushes), unique_key)
        return self._settlement(await self.nodes.run(COUNT, [record_key(unique_key)], args))

    async def expired(self, unique_key: str, woken: Woken) -> None:
        """Remember that a call timed out now, so that later answers are known to be late."""
        args = (woken_text(woken), str(int(REMEMBERED_S * 1000)))
        await self.nodes.run(EXPIRED, [late_key(unique_key)], args)

    async def leave(self, unique_key: str, member: str) -> bool:
        """Take a member away; True when nobody waits at the call any more."""
        args = (member, json.dumps(["gone", unique_key]))
        return bool(await self.nodes.run(LEAVE, [record_key(unique_key)], args))

    async def learn_secret(self) -> None:
        """Share the secret of fresh keys; a Redis that came back empty gets it again."""
        self.keys.learn(await self.nodes.run(SHARE, [SECRET], [self.keys.offer()]))

    def _settlement(self, text: str) -> Settlement | None:
        return settlement_from(text, received_at=self.clock.seconds()) if text else None

    def _left_ms(self, call: Call) -> str:
        return str(max(1, int((call.deadline - self.clock.seconds()) * 1000)))


def _keys(call: Call) -> list[str]:
    identity = identity_key(call.incoming)
    return [record_key(call.unique_key), *([identity] if identity else [])]
