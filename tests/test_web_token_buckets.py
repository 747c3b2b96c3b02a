"""The token buckets."""

from __future__ import annotations

from collections.abc import Hashable

from twisted.trial.unittest import SynchronousTestCase

from middlewared.web.replies import TooManyRequests
from middlewared.web.settings import Rate
from middlewared.web.token_buckets import TokenBuckets

RATE = Rate(burst=10, per_s=2.0)
START = 1000.0


class BucketTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.buckets = TokenBuckets("tokens", max_keys=3)

    def taken(self, spender: Hashable, now: float, tries: int = 30) -> int:
        """How many of so many tries get a token."""
        taken = 0
        for _ in range(tries):
            try:
                self.buckets.take(spender, RATE, now)
            except TooManyRequests:
                continue
            taken += 1
        return taken

    def test_a_burst_then_an_even_rate(self) -> None:
        """A spender that rests gets its burst back, bit by bit, and no more than that."""
        self.assertEqual(self.taken("a", START), 10)
        self.assertEqual(self.taken("a", START + 0.4), 0)
        self.assertEqual(self.taken("a", START + 1.5), 3)
        self.assertEqual(self.taken("a", START + 2.0), 1)
        self.assertEqual(self.taken("a", START + 99), 10)

    def test_what_was_refused_costs_nothing(self) -> None:
        """A spender that keeps asking although it is refused still gets the even rate."""
        self.taken("a", START)
        self.assertEqual([self.taken("a", START + s) for s in (1, 2, 3)], [2, 2, 2])

    def test_refusal_states_when_to_try_again(self) -> None:
        """In whole seconds, rounded up."""
        slow = Rate(burst=1, per_s=1 / 6)
        self.buckets.take("a", slow, START)
        with self.assertRaises(TooManyRequests) as refused:
            self.buckets.take("a", slow, START + 1.5)
        self.assertEqual(refused.exception.retry_after_s, 5)

    def test_a_token_refunded_can_be_taken_again(self) -> None:
        """And a bucket never holds more than its burst."""
        self.taken("a", START)
        self.buckets.refund("a", RATE)
        self.assertEqual(self.taken("a", START), 1)
        self.buckets.refund("a", RATE)
        self.assertEqual(self.taken("a", START + 99), 10)

    def test_giving_back_for_a_forgotten_spender_does_nothing(self) -> None:
        """It has a full bucket anyway."""
        self.buckets.refund("a", RATE)
        self.assertEqual(self.taken("a", START), 10)

    def test_spenders_do_not_share(self) -> None:
        """One that has spent all leaves the others theirs."""
        self.assertEqual([self.taken(name, START) for name in "abc"], [10, 10, 10])

    def test_others_do_not_make_a_persistent_spender_forgotten(self) -> None:
        """The table is bounded; a spender that goes on asking keeps its place in it."""
        self.taken("a", START)
        for other in range(20):
            self.buckets.take(other, RATE, START)
            self.assertEqual(self.taken("a", START, tries=1), 0)

    def test_the_one_that_rested_longest_is_forgotten(self) -> None:
        """Its bucket is the fullest."""
        for name in "abcd":
            self.taken(name, START)
        self.assertEqual(self.taken("d", START), 0)
        self.assertEqual(self.taken("a", START), 10)
