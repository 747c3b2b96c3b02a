"""
Messages of scripts and daemons, published to the channels of daemons.

Each is a JSON list of a kind and its words; the same one may arrive twice.

=============  =======================  ====================================================
kind           words                    sent by
=============  =======================  ====================================================
``settled``    unique_key, settlement   a script, to all who wait for the call or wake for it
``cancelled``  unique_key, waiters ..   a script, to the same, with the waiters it cancels
``gone``       unique_key               a script, to the waker, when the last waiter has left
``refused``    unique_key               a script, to the waker, which knows all its pushes
``asked``      channel, number, query   :class:`.peer_queries.PeerQueries`, of a daemon
``yes``        number                   the same, to the daemon that asked
=============  =======================  ====================================================
"""

from __future__ import annotations

import json

from twisted.logger import Logger

from middlewared.clock import Clock
from middlewared.rendezvous.held_calls import HeldCalls
from middlewared.rendezvous.redis.cancellations import Cancellations
from middlewared.rendezvous.redis.peer_queries import PeerQueries
from middlewared.rendezvous.redis.records import settlement_from
from middlewared.rendezvous.redis.renewals import Renewals
from middlewared.rendezvous.redis.waker_reports import WakerReports


class MessageReceiver:
    """Acts on the messages that arrive at this daemon."""

    log = Logger()

    def __init__(
        self,
        *,
        clock: Clock,
        held: HeldCalls,
        renewals: Renewals,
        waker_reports: WakerReports,
        cancellations: Cancellations,
        queries: PeerQueries,
    ) -> None:
        self._clock = clock
        self._held = held
        self._renewals = renewals
        self._waker_reports = waker_reports
        self._cancellations = cancellations
        self._queries = queries

    def received(self, message: str) -> None:
        """Act on one message."""
        try:
            kind, *words = json.loads(message)
            match kind:
                case "settled":
                    self._settled(*words)
                case "cancelled":
                    self._cancellations.received(*words)
                case "gone":
                    self._gone(*words)
                case "refused":
                    self._waker_reports.refused_elsewhere(*words)
                case "asked":
                    self._queries.received_query(*words)
                case "yes":
                    self._queries.received_yes(*words)
        except (ValueError, TypeError):  # a daemon of another version
            self.log.warn("a message between daemons was not understood")

    def _settled(self, unique_key: str, text: str) -> None:
        held = self._held.find(unique_key)
        settlement = settlement_from(text, received_at=self._clock.seconds())
        if held is None:
            return
        if settlement.answer is not None:
            self._held.settle(held, settlement)
        else:  # a delayed message may be about an earlier call with the same key
            self._renewals.renew_later(held)

    def _gone(self, unique_key: str) -> None:
        held = self._held.find(unique_key)
        if held is not None:  # a waiter here has joined since the message was sent
            self._held.end_unless_waiting(held)
