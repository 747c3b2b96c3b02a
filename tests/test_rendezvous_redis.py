"""The rendezvous over a standalone Redis: two daemons at a real server."""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from middlewared.errors import RendezvousDown
from middlewared.model import Outcome
from middlewared.rendezvous.memory import fresh_key
from middlewared.rendezvous.redis.lua_scripts import GRACE_S, JOIN
from middlewared.rendezvous.redis.records import (
    account_key,
    call_text,
    identity_key,
    record_key,
    record_prefix,
)
from middlewared.rendezvous.redis.shared_calls import MOST_LISTED
from tests.contracts.rendezvous import (
    ACCEPTED,
    UNKNOWN,
    RendezvousContract,
    a_call,
    an_answer,
    shared_facts,
)
from tests.redis_members import Cable, SharedRendezvousCase
from tests.servers.redis import Redis, shared_server


class RedisRendezvousTests(SharedRendezvousCase, RendezvousContract):
    """Two members at one server."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.server = shared_server()
        self.server.run("FLUSHALL")
        self.cable = Cable()
        self.here = await self.member([self.server.node], cable=self.cable)
        self.there = await self.member([self.server.node])

    async def test_up_reports_redis(self) -> None:
        """A rendezvous that has started is up."""
        self.assertTrue((await self.member([self.server.node])).up)

    async def test_answer_settles_the_waiters_of_its_daemon_at_once(self) -> None:
        """Nothing stands between the phone's answer and the request held here, not even Redis."""
        waiter = await self.here.join(a_call())
        answering = Deferred.fromCoroutine(self.here.answer(waiter.call.unique_key, an_answer()))
        self.assertTrue(waiter.settled.called)
        self.assertIs(await answering, ACCEPTED)

    async def test_join_that_races_with_the_answer_is_settled(self) -> None:
        """A repeat that comes at the same moment as the answer does not wait any longer."""
        for _ in range(50):
            waiter = await self.here.join(a_call(call_id="abc"))
            repeat = Deferred.fromCoroutine(self.here.join(a_call(call_id="abc")))
            other = Deferred.fromCoroutine(self.there.join(a_call(call_id="abc")))
            answering = self.there.answer(waiter.call.unique_key, an_answer())
            answered = Deferred.fromCoroutine(answering)
            for joined in await gatherResults([repeat, other]):
                settled = await joined.settled.addTimeout(0.5, reactor)
                self.assertIs(settled.outcome, Outcome.ANSWERED)
            await answered
            self.server.run("FLUSHALL")
            for member in (self.here, self.there):
                member.settle_all(Outcome.DRAINING)
            self.server.run("FLUSHALL")

    async def test_hanging_up_while_joining_leaves_nothing(self) -> None:
        """A PBX that goes before its call has a waiter does not keep the call alive."""
        call = a_call()
        joining = Deferred.fromCoroutine(self.here.join(call))
        joining.cancel()
        with self.assertRaises(CancelledError):
            await joining
        record = record_key(call.unique_key)
        await self.until(lambda: self.server.run("EXISTS", record) == 0)
        self.assertEqual(self.here.waiting, 0)

    async def test_another_daemon_wakes_for_one_that_died(self) -> None:
        """The repeat of a call whose daemon died becomes its waker."""
        first = await self.here.join(a_call(call_id="abc"))
        self.cable.cut()
        repeat = await self.there.join(a_call(call_id="abc"))
        self.assertTrue(repeat.first)
        self.assertEqual(shared_facts(repeat.call), shared_facts(first.call))
        await self.there.answer(first.call.unique_key, an_answer())
        self.assertIs((await repeat.settled).outcome, Outcome.ANSWERED)

    async def test_who_takes_over_knows_the_pushes(self) -> None:
        """Those that the failed daemon had sent: they may have reached the phone."""
        first = await self.here.join(a_call(call_id="abc"))
        first.pushes = 2
        await self.until(lambda: self.pushes_of(first.call.unique_key) == "2")
        self.cable.cut()
        repeat = await self.there.join(a_call(call_id="abc"))
        self.assertEqual((repeat.first, repeat.took_over, repeat.pushes), (True, True, 2))
        repeat.leave()

    async def test_a_daemon_that_was_replaced_as_waker(self) -> None:
        """It comes back: its pushes count no more, and its call ends with its last waiter."""
        first = await self.here.join(a_call(call_id="abc"))
        first.pushes = 1
        self.cable.cut()
        repeat = await self.there.join(a_call(call_id="abc"))
        repeat.pushes = 3
        await self.until(lambda: self.pushes_of(first.call.unique_key) == "3")
        self.cable.restore()
        await self.until(lambda: bool(self.here.up))
        again = await self.here.join(a_call(call_id="abc"))  # renews the record
        self.assertEqual(self.pushes_of(first.call.unique_key), "3")
        first.leave()
        again.leave()
        await self.until(lambda: first.ended.called)
        self.assertFalse(repeat.settled.called)

    async def test_refusals_count_without_redis_and_with_it_again(self) -> None:
        """One while it was down and one after it came back make two."""
        waiter = await self.here.join(a_call())
        waiter.pushes = 2
        await self.until(lambda: self.pushes_of(waiter.call.unique_key) == "2")
        self.cable.cut()
        self.assertIs(await self.answered(self.here, waiter.call, available=False), ACCEPTED)
        self.assertFalse(waiter.settled.called)
        self.cable.restore()
        record = record_key(waiter.call.unique_key)
        await self.until(lambda: "no:" in str(self.server.run("HKEYS", record)))
        self.assertIs(await self.answered(self.there, waiter.call, available=False), ACCEPTED)
        self.assertIs((await waiter.settled).outcome, Outcome.UNAVAILABLE)

    async def test_a_push_that_redis_does_not_know_yet_counts(self) -> None:
        """The phone has refused it through another daemon before: the waker knows better."""
        waiter = await self.here.join(a_call())
        waiter.pushes = 2
        record = record_key(waiter.call.unique_key)
        await self.until(lambda: self.pushes_of(waiter.call.unique_key) == "2")
        self.server.run("HSET", record, "pushes", "1")  # as if it had not come yet
        self.assertIs(await self.answered(self.there, waiter.call, available=False), ACCEPTED)
        self.assertIs(await self.answered(self.there, waiter.call, available=True), ACCEPTED)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def test_refusals_decide_for_a_waiter_whose_waker_is_dead(self) -> None:
        """Those of the pushes that Redis knows of."""
        waiter = await self.here.join(a_call(call_id="abc"))
        joined = await self.there.join(a_call(call_id="abc"))
        waiter.pushes = 1
        await self.until(lambda: self.pushes_of(waiter.call.unique_key) == "1")
        self.cable.cut()
        self.assertIs(await self.answered(self.there, joined.call, available=False), ACCEPTED)
        self.assertIs((await joined.settled).outcome, Outcome.UNAVAILABLE)

    async def test_refusals_of_two_daemons_meet_when_redis_is_back(self) -> None:
        """One that Redis got, and one that came where it was away, decide together."""
        waiter = await self.here.join(a_call())
        waiter.pushes = 2
        await self.until(lambda: self.pushes_of(waiter.call.unique_key) == "2")
        self.cable.cut()
        for daemon in (self.there, self.here):
            self.assertIs(await self.answered(daemon, waiter.call, available=False), ACCEPTED)
        self.assertFalse(waiter.settled.called)
        self.cable.restore()
        self.assertIs((await waiter.settled).outcome, Outcome.UNAVAILABLE)

    def pushes_of(self, unique_key: str) -> str | None:
        """The pushes stored in Redis."""
        pushes: str | None = self.server.run("HGET", record_key(unique_key), "pushes")
        return pushes

    async def test_dead_daemon_is_replaced_once(self) -> None:
        """Of the repeats at several daemons one wakes the device."""
        await self.here.join(a_call(call_id="abc"))
        self.cable.cut()
        third = await self.member([self.server.node])
        joins = [Deferred.fromCoroutine(m.join(a_call(call_id="abc"))) for m in (self.there, third)]
        waiters = await gatherResults(joins)
        self.assertEqual(sum(waiter.first for waiter in waiters), 1)

    async def test_lost_message_is_made_up_for(self) -> None:
        """A daemon that was cut off when its call was answered learns it afterwards."""
        waiter = await self.here.join(a_call())
        self.cable.cut()
        self.assertIs(await self.there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
        self.assertFalse(waiter.settled.called)
        self.cable.restore()
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def test_lost_failure_is_made_up_for(self) -> None:
        """The same for a fast no."""
        first = await self.there.join(a_call(call_id="abc"))
        waiter = await self.here.join(a_call(call_id="abc"))
        self.cable.cut()
        await self.there.settle(first.call.unique_key, Outcome.TOKEN_DEAD)
        self.cable.restore()
        self.assertIs((await waiter.settled).outcome, Outcome.TOKEN_DEAD)

    async def test_cancelling_where_redis_has_lost_the_call(self) -> None:
        """The daemons are asked, and nothing of it comes back into Redis."""
        waiter = await self.here.join(a_call(call_id="abc"))
        self.cable.cut()
        self.server.run("FLUSHALL")
        self.cable.restore()
        self.server.run("CLIENT", "KILL", "TYPE", "PUBSUB")
        cancelled = False
        while not cancelled:
            with contextlib.suppress(
                RendezvousDown
            ):  # as long as it is not known whether all have Redis
                cancelled = await self.there.cancel(waiter.call.incoming)
        self.assertIs((await waiter.settled).outcome, Outcome.CANCELLED)
        record = record_key(waiter.call.unique_key)
        await self.until(lambda: not self.server.run("HKEYS", record))
        self.assertTrue((await self.there.join(a_call(call_id="abc"))).first)

    async def test_lost_cancellation_is_made_up_for(self) -> None:
        """The same for a caller who gave up."""
        waiter = await self.here.join(a_call(call_id="abc"))
        self.cable.cut()
        self.assertTrue(await self.there.cancel(waiter.call.incoming))
        self.cable.restore()
        self.assertIs((await waiter.settled).outcome, Outcome.CANCELLED)

    async def test_cancelled_requests_leave_nothing_in_a_later_call(self) -> None:
        """Renewed at that moment, they would keep the later call of the same key alive."""
        first = await self.here.join(a_call(call_id="abc", unique_key=fresh_key()))
        held = first.held  # type: ignore[attr-defined]
        await self.there.cancel(first.call.incoming)
        again = await self.there.join(a_call(call_id="abc"))
        await first.settled
        again.leave()
        await self.until_ended(again)
        self.assertEqual(held.waiters, set())
        self.assertTrue((await self.here.join(a_call(call_id="abc"))).first)

    async def test_a_joining_request_is_cancelled_by_another_daemon(self) -> None:
        """The message may come before the reply of Redis to the join."""
        for _ in range(30):
            call = a_call(call_id=fresh_key())
            joining = Deferred.fromCoroutine(self.here.join(call))
            while not await self.there.cancel(call.incoming):
                pass
            settled = await (await joining).settled.addTimeout(0.5, reactor)
            self.assertIs(settled.outcome, Outcome.CANCELLED)

    async def test_taking_over_opens_no_call_that_has_ended(self) -> None:
        """A daemon that finds the waker gone, because the call was just settled, leaves it so."""
        waiter = await self.here.join(a_call(call_id="abc"))
        await self.here.settle(waiter.call.unique_key, Outcome.TOKEN_DEAD)
        key = waiter.call.unique_key
        keys = record_key(key), identity_key(waiter.call.incoming)
        args = (record_prefix(key), key, call_text(waiter.call), 20_000, "x/1", "y/1")
        *_, waker, _ = self.server.run("EVAL", JOIN.text, 2, *keys, *args)
        self.assertEqual(waker, "")
        self.assertIs(await self.answered(self.there, waiter.call), UNKNOWN)

    async def test_a_join_costs_one_command(self) -> None:
        """Also one that a registration may answer: it is listed with its first push, unawaited."""
        cost = None
        while cost != 1:  # a member that has just started has other work as well
            before = self.calls_of("evalsha")
            waiter = await self.here.join(a_call(by_registration=True))
            cost = self.calls_of("evalsha") - before
            waiter.pushes = 1
            await self.registered_list()
            waiter.leave()
            record = record_key(waiter.call.unique_key)
            await self.until(lambda: not self.server.run("EXISTS", record))  # noqa: B023

    async def test_list_of_an_account_is_bounded(self) -> None:
        """In length, and in time: it ends with the last of its calls."""
        for _ in range(MOST_LISTED + 5):
            (await self.here.join(a_call(wait_s=5.0, by_registration=True))).pushes = 1
        listed = account_key(123456789)
        await self.until(lambda: self.server.run("HLEN", listed) == MOST_LISTED)
        self.assertTrue(0 < int(self.server.run("PTTL", listed)) <= 5000)

    async def test_lost_list_is_made_again(self) -> None:
        """Redis came back without it."""
        waiter = await self.here.join(a_call(by_registration=True))
        waiter.pushes = 1
        await self.registered_list()
        self.server.run("FLUSHALL")
        self.cable.cut()
        self.cable.restore()
        await self.registered_list()
        await self.registered(self.there, 1)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)

    async def registered_list(self) -> None:
        listed = account_key(123456789)
        await self.until(lambda: self.server.run("EXISTS", listed) == 1)

    async def test_records_end_with_their_calls(self) -> None:
        """Redis forgets each some seconds after its deadline, however the call ended."""
        answered = await self.here.join(a_call(call_id="a", wait_s=0.3))
        await self.there.answer(answered.call.unique_key, an_answer())
        failed = await self.here.join(a_call(call_id="b", wait_s=0.3))
        await self.here.settle(failed.call.unique_key, Outcome.TOKEN_DEAD)
        left = await self.here.join(a_call(call_id="c", wait_s=0.3))
        left.leave()
        timed_out = await self.here.join(a_call(wait_s=0.3))
        await timed_out.settled
        left_ms = [int(self.server.run("PTTL", record)) for record in self.records()]
        self.assertGreaterEqual(len(left_ms), 3)
        for each in left_ms:
            self.assertTrue(0 < each <= (GRACE_S + 0.3) * 1000, left_ms)

    async def test_a_call_placed_again_meets_no_old_waiter_in_a_redis_without_scripts(self) -> None:
        """Redis refuses LEAVE by its digest then, and runs its repetition after what follows it."""
        key = fresh_key()
        first = await self.here.join(a_call(unique_key=key, call_id=key))
        self.server.run("SCRIPT", "FLUSH")
        await self.here.join(a_call())  # JOIN is known again
        first.leave()
        again = await self.here.join(a_call(unique_key=key, call_id=key))
        self.assertTrue(again.first)

    async def test_strange_keys_are_unknown(self) -> None:
        """What a stranger sends to the open answer route is refused without asking Redis."""
        for key in ("", "abc", "{}", "é" * 200, "\udcff", "0" * 31):
            self.assertIs(await self.here.answer(key, an_answer()), UNKNOWN)

    async def test_an_unknown_key_costs_one_look_up(self) -> None:
        """No one else is asked while Redis works, whether the key is made up or late."""
        late = await self.here.join(a_call())
        late.leave()
        await self.until(lambda: not self.records())
        cost = None
        while cost != (0, 2):  # a member that has just started has other work as well
            before = self.calls_of("publish"), self.calls_of("evalsha")
            for key in (fresh_key(), late.call.unique_key):
                self.assertIs(await self.there.answer(key, an_answer()), UNKNOWN)
            after = self.calls_of("publish"), self.calls_of("evalsha")
            cost = after[0] - before[0], after[1] - before[1]

    async def known_waiter(self) -> Any:
        """A waiter at a call whose key has a check; a busy member learns the secret late."""
        while True:
            waiter = await self.here.join(a_call())
            if self.there.knows_key(waiter.call.unique_key):
                return waiter
            waiter.leave()
            await deferLater(reactor, 0.05)

    async def test_keys_are_recognised_by_every_member(self) -> None:
        """The one that holds the call, the others by the key's check; no made-up one."""
        waiter = await self.known_waiter()
        for member in (self.here, self.there):
            self.assertTrue(member.knows_key(waiter.call.unique_key))
            self.assertFalse(member.knows_key(fresh_key()))
        waiter.leave()

    async def test_a_redis_that_lost_the_secret_gets_it_again(self) -> None:
        """Keys from before are recognised by a daemon that starts afterwards."""
        waiter = await self.known_waiter()
        self.server.run("FLUSHALL")
        self.server.run("CLIENT", "KILL", "TYPE", "PUBSUB")
        await self.until(lambda: self.server.run("EXISTS", "middlewared:secret") == 1)
        third = await self.member([self.server.node])
        await self.until(lambda: third.knows_key(waiter.call.unique_key))
        waiter.leave()

    async def test_the_secret_outlives_a_slow_start(self) -> None:
        """A daemon whose first attempt to share one was delayed keeps the one it has learnt."""
        waiter = await self.known_waiter()
        for _ in range(5):
            slow = await self.member([self.server.node], cable=Cable(first_after_s=0.05))
            await self.until(lambda: slow.knows_key(waiter.call.unique_key))  # noqa: B023
            self.server.run("FLUSHALL")
            self.server.run("CLIENT", "KILL", "TYPE", "PUBSUB")
            await self.until(lambda: self.server.run("EXISTS", "middlewared:secret") == 1)
            self.assertTrue(slow.knows_key(waiter.call.unique_key))
        waiter.leave()

    def calls_of(self, command: str) -> int:
        """How often the server was given a command."""
        lines = self.server.run("INFO", "commandstats").splitlines()
        found = [line for line in lines if line.startswith(f"cmdstat_{command}:")]
        return int(found[0].split("calls=")[1].split(",")[0]) if found else 0

    async def test_strange_messages_are_ignored(self) -> None:
        """A message of another version of the program does no harm."""
        for message in ("", "{}", "[]", '["settled"]', '["asked", 1]', '["settled", "a", "[9]"]'):
            self.server.run("PUBLISH", "middlewared:daemons", message)
        waiter = await self.here.join(a_call())
        self.assertIs(await self.there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
        await waiter.settled

    async def test_texts_come_through_unchanged(self) -> None:
        """A joined call has every character of the one that was opened."""
        call = a_call(call_id="{é}\r\n\x01 00123 😀")
        first = await self.here.join(call)
        second = await self.there.join(call)
        self.assertEqual(shared_facts(second.call), shared_facts(first.call))
        self.assertEqual(second.call.incoming, call.incoming)


class LoginTests(SharedRendezvousCase):
    """A server that wants a name and a password."""

    def start_server(self, *options: str) -> Redis:
        server = Redis(*options)
        self.addCleanup(server.remove)
        return server

    async def answers(self, node: tuple[str, int], **login: Any) -> bool:
        """Whether two members that log in like this bring an answer to its call."""
        here, there = [await self.member([node], **login) for _ in range(2)]
        waiter = await here.join(a_call())
        await there.answer(waiter.call.unique_key, an_answer())
        return (await waiter.settled).outcome is Outcome.ANSWERED and here.up

    async def test_password(self) -> None:
        """requirepass: commands and subscriptions log in."""
        server = self.start_server("--requirepass", "s3cret")
        self.assertTrue(await self.answers(server.node, password="s3cret"))

    async def test_user_with_just_the_rights_needed(self) -> None:
        """An ACL user that may do nothing but what a daemon does."""
        server = self.start_server()
        rights = "-@all +evalsha +eval +auth +ping +subscribe +publish"
        rights += " +get +set +del +exists +pexpire +pttl +hset +hget +hdel +hexists +hkeys"
        server.run("ACL", "SETUSER", "daemon", "on", ">s3cret", *rights.split())
        server.run("ACL", "SETUSER", "daemon", "~middlewared:*", "&middlewared:*")
        server.run("ACL", "SETUSER", "default", "resetpass", "-@all")
        self.assertTrue(await self.answers(server.node, username="daemon", password="s3cret"))

    async def test_wrong_password(self) -> None:
        """A refused login is like a Redis that is away; the secret is not shown."""
        server = self.start_server("--requirepass", "s3cret")
        member = await self.member([server.node], password="wr0ng")
        self.assertFalse(member.up)
        waiter = await member.join(a_call())
        self.assertIs(await member.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
