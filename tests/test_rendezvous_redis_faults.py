"""Calls while a standalone Redis dies, stops, and comes back."""

from __future__ import annotations

import uuid

from twisted.internet.defer import Deferred, gatherResults

from middlewared.errors import RendezvousDown
from middlewared.model import Outcome
from middlewared.rendezvous.redis.records import identity_key, record_key
from tests.contracts.rendezvous import ACCEPTED, a_call, an_answer, shared_facts
from tests.cuttable import CuttableProxy
from tests.redis_members import SharedRendezvousCase
from tests.servers.redis import Redis


class RedisAwayTests(SharedRendezvousCase):
    """Two members at a server that is killed (refuses) or paused (never replies)."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.server = Redis()
        self.addCleanup(self.server.remove)
        self.here = await self.member([self.server.node])
        self.there = await self.member([self.server.node])

    async def until_up(self) -> None:
        await self.until(lambda: self.here.up and self.there.up)

    async def go_on_alone(self) -> None:
        """A daemon rings its own calls, and answers them, while Redis is away."""
        waiter = await self.in_time(self.here.join(a_call(call_id="abc")))
        repeat = await self.in_time(self.here.join(a_call(call_id="abc")))
        self.assertEqual((waiter.first, repeat.first), (True, False))
        self.assertEqual(self.here.waiting, 2)
        answering = self.in_time(self.here.answer(waiter.call.unique_key, an_answer()))
        self.assertIs(await answering, ACCEPTED)
        self.assertIs((await repeat.settled).outcome, Outcome.ANSWERED)
        again = await self.in_time(self.here.join(a_call(call_id="abc")))
        self.assertTrue(again.settled.called)
        refused = self.here.answer(waiter.call.unique_key, an_answer(available=False))
        self.assertTrue(await self.in_time(refused))
        self.assertEqual(self.here.waiting, 0)

    async def test_daemon_goes_on_alone_without_redis(self) -> None:
        """A killed Redis costs the calls of one daemon nothing."""
        self.server.kill()
        await self.go_on_alone()
        self.assertFalse(self.here.up)

    async def test_daemon_goes_on_alone_while_redis_is_silent(self) -> None:
        """Neither does one that never replies."""
        self.server.pause()
        self.addCleanup(self.server.resume)
        await self.go_on_alone()
        self.assertFalse(self.here.up)

    async def test_a_join_whose_reply_is_lost_leaves_no_record(self) -> None:
        """The call is opened here with a key of its own then."""
        proxy = CuttableProxy(self.server.node)
        self.addCleanup(proxy.stop)
        await proxy.start()
        here = await self.member([proxy.node])
        proxy.delay_s = 0.1
        key = str(uuid.uuid4())
        joining = Deferred.fromCoroutine(here.join(a_call(call_id=key, unique_key=key)))
        await self.until(lambda: self.server.run("EXISTS", record_key(key)) == 1)
        proxy.cut()
        waiter = await joining
        self.assertNotEqual(waiter.call.unique_key, key)
        proxy.restore()
        await self.until(lambda: self.server.run("EXISTS", record_key(key)) == 0)
        incoming, found = waiter.call.incoming, waiter.call.unique_key
        await self.until(lambda: self.server.run("GET", identity_key(incoming)) == found)
        self.assertTrue(await self.there.cancel(incoming))
        self.assertIs((await waiter.settled).outcome, Outcome.CANCELLED)

    async def test_refusal_settles_a_call_of_this_daemon(self) -> None:
        """available=False needs no Redis either."""
        waiter = await self.here.join(a_call())
        self.server.kill()
        refusal = self.here.answer(waiter.call.unique_key, an_answer(available=False))
        self.assertTrue(await self.in_time(refusal))
        self.assertIs((await waiter.settled).outcome, Outcome.UNAVAILABLE)

    async def test_unknown_key_cannot_be_ruled_out(self) -> None:
        """Without Redis no one knows that a call does not wait elsewhere."""
        waiter = await self.here.join(a_call())
        self.server.kill()
        with self.assertRaises(RendezvousDown):
            await self.in_time(self.there.answer(waiter.call.unique_key, an_answer()))

    async def test_accounts_that_ring_together_stay_apart(self) -> None:
        """One caller's UUID rings two accounts at two daemons: no answer serves for the other."""
        key = "0123456789abcdef0123456789abcdef"
        self.server.kill()
        one = await self.here.join(a_call(call_id=key, unique_key=key))
        two = await self.there.join(a_call(sip_user_id=987654321, call_id=key, unique_key=key))
        self.assertNotEqual(one.call.unique_key, two.call.unique_key)
        self.server.start()
        await self.until_up()
        await self.until(lambda: len(self.records()) == 4)
        self.assertIs(await self.there.answer(one.call.unique_key, an_answer()), ACCEPTED)
        self.assertIs((await one.settled).outcome, Outcome.ANSWERED)
        self.assertFalse(two.settled.called)

    async def test_fast_no_needs_no_redis(self) -> None:
        """A definitive failure ends the call at this daemon."""
        waiter = await self.here.join(a_call())
        self.server.kill()
        await self.in_time(self.here.settle(waiter.call.unique_key, Outcome.TOKEN_DEAD))
        self.assertIs((await waiter.settled).outcome, Outcome.TOKEN_DEAD)

    async def test_cancelling_a_call_of_this_daemon_needs_no_redis(self) -> None:
        """The caller who gave up is served at once; when Redis is back, nothing is left there."""
        waiter = await self.here.join(a_call(call_id="abc"))
        self.server.pause()
        self.assertTrue(await self.in_time(self.here.cancel(waiter.call.incoming)))
        self.assertIs((await waiter.settled).outcome, Outcome.CANCELLED)
        self.server.resume()
        await self.until_up()
        record = record_key(waiter.call.unique_key)
        await self.until(lambda: not self.server.run("EXISTS", record))
        self.assertTrue((await self.there.join(a_call(call_id="abc"))).first)

    async def test_cancelling_an_unknown_call_is_not_known_without_redis(self) -> None:
        """It may wait at another daemon; an answered one is known to stay answered."""
        waiter = await self.here.join(a_call(call_id="abc"))
        answered = await self.there.join(a_call(call_id="abd"))
        await self.there.answer(answered.call.unique_key, an_answer())
        self.server.kill()
        with self.assertRaises(RendezvousDown):
            await self.in_time(self.there.cancel(waiter.call.incoming))
        self.assertFalse(await self.in_time(self.there.cancel(answered.call.incoming)))
        self.assertFalse(waiter.settled.called)

    async def test_registration_answers_a_call_of_this_daemon_without_redis(self) -> None:
        """Whether calls of the account wait elsewhere is then not known."""
        waiter = await self.here.join(a_call(by_registration=True))
        waiter.pushes = 1
        self.server.kill()
        answering = self.here.answer_account(123456789, "", an_answer())
        self.assertEqual(await self.in_time(answering), 1)
        self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)
        with self.assertRaises(RendezvousDown):
            await self.in_time(self.there.answer_account(123456789, "", an_answer()))

    async def test_leaving_needs_no_redis(self) -> None:
        """The pushes stop when the PBX has gone."""
        waiter = await self.here.join(a_call())
        self.server.kill()
        waiter.leave()
        await self.until(lambda: waiter.ended.called, 2.0)
        self.assertEqual(self.here.waiting, 0)

    async def test_deadline_needs_no_redis(self) -> None:
        """No held request outlives its wait."""
        waiter = await self.here.join(a_call(wait_s=0.4))
        self.server.pause()
        self.addCleanup(self.server.resume)
        self.assertIs((await waiter.settled).outcome, Outcome.TIMEOUT)

    async def test_stop_needs_no_redis(self) -> None:
        """A daemon ends in time, with its connections, while Redis does not reply."""
        waiter = await self.here.join(a_call())
        self.server.pause()
        self.addCleanup(self.server.resume)
        await self.in_time(self.here.stop(), 3.0)
        self.assertIs((await waiter.settled).outcome, Outcome.DRAINING)

    async def test_start_needs_no_redis(self) -> None:
        """A daemon that starts first finds Redis when it comes."""
        self.server.kill()
        early = await self.in_time(self.member([self.server.node]), 3.0)
        waiter = await early.join(a_call())
        self.server.start()
        await self.until_up()
        await self.until(lambda: early.up)
        await self.until(
            lambda: bool(self.server.run("EXISTS", record_key(waiter.call.unique_key)))
        )
        self.assertIs(await self.there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
        await waiter.settled

    async def test_calls_survive_a_restart_of_redis(self) -> None:
        """Redis comes back empty: the calls that wait are put into it again."""
        joins = [Deferred.fromCoroutine(self.here.join(a_call())) for _ in range(100)]
        waiters = await gatherResults(joins)
        self.server.kill()
        opened = await self.here.join(a_call(call_id="abc"))
        self.server.start()
        await self.until_up()
        await self.until(lambda: len(self.records()) == 102)
        repeat = await self.there.join(a_call(call_id="abc"))
        self.assertFalse(repeat.first)
        self.assertEqual(shared_facts(repeat.call), shared_facts(opened.call))
        for waiter in [*waiters, opened]:
            self.assertIs(await self.there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
            self.assertIs((await waiter.settled).outcome, Outcome.ANSWERED)
        self.assertIs((await repeat.settled).outcome, Outcome.ANSWERED)

    async def test_calls_survive_a_pause_of_redis(self) -> None:
        """Redis was stopped and goes on: nothing needs a restart."""
        waiter = await self.here.join(a_call())
        self.server.pause()
        opened = await self.in_time(self.here.join(a_call()))
        self.server.resume()
        await self.until_up()
        record = record_key(opened.call.unique_key)
        await self.until(lambda: self.server.run("EXISTS", record) == 1)
        for each in (waiter, opened):
            self.assertIs(await self.there.answer(each.call.unique_key, an_answer()), ACCEPTED)
            self.assertIs((await each.settled).outcome, Outcome.ANSWERED)

    async def test_answer_given_while_redis_was_away_stands(self) -> None:
        """A repeat at the daemon that got the answer gets it, also after Redis came back."""
        waiter = await self.here.join(a_call(call_id="abc"))
        self.server.kill()
        await self.here.answer(waiter.call.unique_key, an_answer())
        self.server.start()
        await self.until_up()
        repeat = await self.here.join(a_call(call_id="abc"))
        self.assertIs((await repeat.settled).outcome, Outcome.ANSWERED)

    async def test_lost_scripts_are_sent_again(self) -> None:
        """SCRIPT FLUSH, a restart or a failover make the server forget them."""
        waiter = await self.here.join(a_call())
        self.server.run("SCRIPT", "FLUSH")
        self.assertIs(await self.there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
        await waiter.settled

    async def test_full_redis_is_a_redis_that_is_away(self) -> None:
        """A server without memory refuses writes: calls go on at each daemon."""
        self.server.run("CONFIG", "SET", "maxmemory", "1")
        await self.go_on_alone()
        self.assertFalse(self.here.up)
        self.server.run("CONFIG", "SET", "maxmemory", "0")
        waiter = await self.here.join(a_call())
        self.assertTrue(self.here.up)
        self.assertIs(await self.there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
