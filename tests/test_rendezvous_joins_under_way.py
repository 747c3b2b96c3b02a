"""Joins that Redis has not replied to yet, and who waits for their end."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from middlewared.rendezvous.redis.joins_under_way import JoinsUnderWay
from tests.contracts.rendezvous import a_call


class JoinsUnderWayTests(SynchronousTestCase):
    def test_all_of_a_call_are_waited_for_in_whatever_order_they_end(self) -> None:
        """A cancellation waits for them, and would wait for ever for one that has ended."""
        call = a_call(call_id="abc")
        for order in ((0, 1), (1, 0)):
            joins = JoinsUnderWay()
            begun = [joins.begin(call, f"waiter/{number}") for number in range(2)]
            joins.begin(a_call(call_id="other"), "waiter/other")
            finished = Deferred.fromCoroutine(joins.finish(call.incoming))
            for number in order:
                self.assertNoResult(finished)
                joins.end(begun[number])
            self.successResultOf(finished)
