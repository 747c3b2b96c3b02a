"""Calls leave nothing behind, however they end."""

from __future__ import annotations

import gc
from collections.abc import Callable

import attrs
from twisted.internet.defer import CancelledError, Deferred

from middlewared.calls.trace import Trace
from middlewared.calls.waking import Waking
from middlewared.errors import DatabaseDown
from middlewared.model import Call, Outcome
from middlewared.push.interface import ConfigFault, Temporary, TokenDead
from middlewared.rendezvous.memory import fresh_key
from tests.test_calls_ringing import CALL, PHONE, RingingCase

ROUNDS = 20
KINDS = (Call, Trace, Waking, Deferred)


class LeakTests(RingingCase):
    """Each kind of call, several times, with a census before and after."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(gc.enable)

    def census(self) -> list[int]:
        """How many objects there are of each class that a call consists of."""
        del self.ended[:], self.provider.pushes[:]
        found = [type(each) for each in gc.get_objects()]
        return [found.count(kind) for kind in KINDS]

    def assert_nothing_stays(self, one_call: Callable[[], None], *, cycles: bool = False) -> None:
        """``cycles``: whether only the garbage collector finds what is left."""
        one_call()
        self.advance(4.1)
        gc.collect()
        gc.disable()
        before = self.census()
        for _ in range(ROUNDS):
            self.devices.put(PHONE)
            one_call()
            self.advance(0.1)
        self.advance(4.1)
        if cycles:
            gc.collect()
        for kind, now, then in zip(KINDS, self.census(), before, strict=True):
            self.assertLess(now - then, ROUNDS, kind)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.ringing.waiting, self.rendezvous.waiting), (0, 0))

    def test_answered(self) -> None:
        """With the pushes that were still to come."""

        def one_call() -> None:
            held = self.ring(attrs.evolve(CALL, call_id=""))
            self.answer(key=self.provider.pushes[-1].call.unique_key)
            self.successResultOf(held)

        self.assert_nothing_stays(one_call)

    def test_joined(self) -> None:
        """Two requests of one call."""

        def one_call() -> None:
            call = attrs.evolve(CALL, call_id=fresh_key())
            first, second = self.ring(call), self.ring(call)
            self.answer(key=self.provider.pushes[-1].call.unique_key)
            self.successResultOf(first)
            self.successResultOf(second)

        self.assert_nothing_stays(one_call)

    def test_fast_no(self) -> None:
        """Each definitive failure."""

        def one_call() -> None:
            for verdict in (TokenDead("Unregistered"), ConfigFault("BadTopic")):
                self.devices.put(PHONE)
                self.provider.script = [verdict]
                self.successResultOf(self.ring())

        self.assert_nothing_stays(one_call)

    def test_not_rung(self) -> None:
        """No device, no database, draining."""

        def one_call() -> None:
            self.successResultOf(self.ring(attrs.evolve(CALL, sip_user_id=987654321)))
            self.devices.failure = DatabaseDown("gone")
            self.successResultOf(self.ring())
            self.devices.failure = None
            self.ringing.draining = True
            self.successResultOf(self.ring())
            self.ringing.draining = False

        self.assert_nothing_stays(one_call)

    def test_timed_out(self) -> None:
        """In the middle of a back-off."""

        def one_call() -> None:
            self.provider.script = [Temporary("down")] * 20
            held = self.ring()
            self.advance(4.1)
            self.assertIs(self.successResultOf(held), Outcome.TIMEOUT)

        self.assert_nothing_stays(one_call)

    def test_hung_up(self) -> None:
        """Twisted leaves a cycle around each cancellation, and no more than that."""

        def one_call() -> None:
            held = self.ring()
            held.cancel()
            self.failureResultOf(held, CancelledError)

        self.assert_nothing_stays(one_call, cycles=True)
