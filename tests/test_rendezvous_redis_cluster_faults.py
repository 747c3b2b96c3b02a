"""Calls while nodes of a Redis Cluster die, stop, or hand over slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from middlewared.errors import RendezvousDown
from middlewared.model import Outcome
from middlewared.rendezvous.interface import Waiter
from middlewared.rendezvous.memory import fresh_key
from middlewared.rendezvous.redis.cluster_slots import slot_of
from middlewared.rendezvous.redis.records import record_key
from tests.contracts.rendezvous import ACCEPTED, a_call, an_answer
from tests.redis_members import SharedRendezvousCase
from tests.servers.redis import Redis, shared_cluster

T = TypeVar("T")


class ClusterFaultTests(SharedRendezvousCase):
    """Two members at one Cluster; each test makes it whole again."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.cluster = shared_cluster()
        self.here = await self.member(self.cluster.nodes[:3], cluster=True)
        self.there = await self.member(self.cluster.nodes[3:], cluster=True)

    def hurt(self, harm: Callable[[Redis], None], node: Redis) -> None:
        """Harm a node, and recover it at the end."""
        harm(node)
        self.addCleanup(deferToThread, self.cluster.recover, node)

    async def join_many(self, count: int) -> Sequence[Waiter]:
        calls = [a_call(call_id=fresh_key()[:10]) for _ in range(count)]
        return await gatherResults([Deferred.fromCoroutine(self.here.join(call)) for call in calls])

    async def answer_all(self, waiters: Sequence[Waiter]) -> None:
        """Each waiter is settled by an answer at the other daemon."""
        answers = [
            Deferred.fromCoroutine(self.there.answer(waiter.call.unique_key, an_answer()))
            for waiter in waiters
        ]
        self.assertEqual(set(await self.in_time(gathered(answers), 5.0)), {ACCEPTED})
        settled = await self.in_time(gathered([waiter.settled for waiter in waiters]))
        self.assertEqual({each.outcome for each in settled}, {Outcome.ANSWERED})

    def port_of(self, waiter: Waiter) -> int:
        return self.cluster.master_of(slot_of(record_key(waiter.call.unique_key))).port

    async def test_calls_are_spread_over_the_masters(self) -> None:
        """No master has all the work."""
        waiters = await self.join_many(60)
        self.assertEqual(len({self.port_of(waiter) for waiter in waiters}), 3)
        await self.answer_all(waiters)

    async def test_no_answer_is_lost_with_a_killed_master(self) -> None:
        """Answers reach their calls while the failover goes on, and after it."""
        before, later = await self.join_many(60), await self.join_many(60)
        victim = self.cluster.masters[0]
        self.hurt(Redis.kill, victim)
        await self.answer_all(before)
        during = await self.join_many(60)
        await self.until(lambda: self.here.up and self.there.up)
        await self.answer_all([*later, *during, *await self.join_many(60)])

    async def test_no_answer_is_lost_with_a_silent_master(self) -> None:
        """The same when the master never replies."""
        before, later = await self.join_many(60), await self.join_many(60)
        victim = self.cluster.masters[1]
        self.hurt(Redis.pause, victim)
        await self.answer_all(before)
        await self.until(lambda: self.here.up and self.there.up)
        await self.answer_all([*later, *await self.join_many(60)])

    async def test_no_answer_is_lost_with_a_subscription(self) -> None:
        """Each daemon listens at every master, so one may close without a message being lost."""
        for master in self.cluster.masters:
            waiters = await self.join_many(30)
            await self.until(partial(has_listeners, master))
            self.assertEqual(master.run("CLIENT", "KILL", "TYPE", "PUBSUB"), 2)
            await self.answer_all(waiters)
        for master in self.cluster.masters:
            await self.until(partial(has_listeners, master))

    async def test_answers_find_calls_while_their_slot_moves(self) -> None:
        """Before, in the midst of and after a slot's move each command finds the record."""
        stays, moves, opened_before = await self.join_many(3)
        for waiter in (stays, moves):
            slot = slot_of(record_key(waiter.call.unique_key))
            source, target = self.cluster.begin_move(slot)
            if waiter is moves:
                self.cluster.move_keys(slot, source, target)
            await self.answer_all([waiter])
            self.cluster.move_keys(slot, source, target)
            self.cluster.end_move(slot, source, target)
            key = waiter.call.unique_key
            again = await self.there.join(a_call(unique_key=key, call_id=key))
            self.assertTrue(again.first)
        await self.answer_all([opened_before])

    async def test_a_slot_whose_move_stands_still(self) -> None:
        """A new call in it is not repeated for ever, however well all other calls do."""
        (earlier,) = await self.join_many(1)
        earlier.leave()
        record = record_key(earlier.call.unique_key)
        slot = slot_of(record)
        await self.until(lambda: self.cluster.master_of(slot).run("EXISTS", record) == 0)
        source, target = self.cluster.begin_move(slot)
        self.addCleanup(self.cluster.end_move, slot, source, target)
        self.addCleanup(self.cluster.move_keys, slot, source, target)
        call_id = earlier.call.incoming.call_id
        joining = Deferred.fromCoroutine(self.here.join(a_call(call_id=call_id)))
        joining.addErrback(lambda failure: failure.trap(RendezvousDown))
        for _ in range(1000):
            await self.join_many(10)
            if joining.called:
                return
        self.fail("it is still repeated")

    async def test_resharding_under_load(self) -> None:
        """Slots move from master to master while calls come and are answered."""
        moving = deferToThread(self.move_slots, range(0, 16384, 400))
        calls = 0
        while not moving.called:
            await self.answer_all(await self.join_many(20))
            calls += 20
        await moving
        self.assertGreater(calls, 20)
        await self.answer_all(await self.join_many(60))

    def move_slots(self, slots: Sequence[int]) -> None:
        for slot in slots:
            source, target = self.cluster.begin_move(slot)
            self.cluster.move_keys(slot, source, target)
            self.cluster.end_move(slot, source, target)


def has_listeners(node: Redis) -> bool:
    """Whether both daemons listen at ``node``, to both of their channels."""
    return str(node.run("CLIENT", "LIST", "TYPE", "PUBSUB")).count("sub=2") == 2


async def gathered(waiting: Sequence[Deferred[T]]) -> list[T]:
    """The results of all of them."""
    return await gatherResults(waiting)
