"""
The calls as Redis has them: the scripts, run on the node that has the call, as functions.

The one invariant: what comes back is what Redis had after the change, or
:class:`~middlewared.errors.RendezvousDown`, and then the change may have been made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

from middlewared.clock import Clock
from middlewared.model import Call, Settlement
from middlewared.rendezvous.redis_keys import Keys
from middlewared.rendezvous.redis_nodes import Nodes
from middlewared.rendezvous.redis_records import (
    SECRET,
    call_from,
    call_text,
    identity_key,
    record_key,
    record_prefix,
    settlement_from,
    settlement_text,
)
from middlewared.rendezvous.redis_scripts import JOIN, LEAVE, RENEW, SETTLE, SHARE

NOBODY = "-"  # no member's name


@attrs.frozen
class Joined:
    """A call that was opened or joined; it ends in ``left_s``. ``waker`` is a member."""

    call: Call
    settlement: Settlement | None
    left_s: float
    waker: str


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
                text, answered, left_ms, waker = reply
                now, left_s = self.clock.seconds(), left_ms / 1000
                joined = call_from(text, deadline=now + left_s)
                return Joined(joined, self._settlement(answered), left_s, waker)
            call = self.keys.with_fresh_key(call)

    async def renew(
        self, call: Call, members: Sequence[str], waker: str
    ) -> tuple[Settlement | None, str]:
        """
        Make sure that the call is there and has these members.

        :param waker: the one of them that wakes the device, "" when it is none of them.
        :return: how the call was decided, and who wakes the device.
        """
        args = (call.unique_key, call_text(call), self._left_ms(call), waker, *members)
        text, waker = await self.nodes.run(RENEW, _keys(call), args)
        return self._settlement(text), waker

    async def settle(self, unique_key: str, settlement: Settlement) -> Settlement | None:
        """Decide a call; gives the decision that stands, None when no such call waits."""
        text = settlement_text(settlement)
        field = "failed" if settlement.answer is None else "answered"
        args = (field, text, json.dumps(["settled", unique_key, text]))
        return self._settlement(await self.nodes.run(SETTLE, [record_key(unique_key)], args))

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
