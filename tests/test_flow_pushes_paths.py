"""Calls while the path to Apple or Google is dead or long."""

from __future__ import annotations

from middlewared.simulator.generations import ANDROID_6, FLUTTER_IOS
from middlewared.simulator.phone import Reaction
from middlewared.simulator.scripts import Delay
from tests.pushing import PushingTestCase

KEPT = 5


class DeadPathTests(PushingTestCase):
    """A firewall has dropped all connections: what is sent over them is lost."""

    connections = 4

    async def test_all_idle_connections_are_dead(self) -> None:
        """One silent connection makes all others be checked: no call is lost."""
        apple = await self.apple("ios")
        await self.start()
        iphones = [await self.phone(FLUTTER_IOS, apple) for _ in range(self.connections)]
        androids = [await self.phone(ANDROID_6, reaction=Reaction()) for _ in range(KEPT)]
        self.google.scripts.for_next(KEPT, Delay(0.3))
        self.assertEqual(await self.outcomes(*map(self.call, androids)), ["answered"] * KEPT)
        self.assertGreaterEqual(self.google_relay.connections, 2)
        for phone in androids:
            phone.reaction = Reaction(1.2)
        apple.relay.forget()
        self.google_relay.forget()
        called = [*iphones, *androids]
        outcomes = await self.outcomes(*map(self.call, called))
        self.assertEqual(outcomes, ["answered"] * len(called))
        self.assertEqual([len(iphone.pushes) for iphone in iphones], [1] * len(iphones))


class LongPathTests(PushingTestCase):
    """A round trip to Apple takes 560 ms, as over a satellite."""

    async def test_one_push_of_one_call(self) -> None:
        """The patience follows the round trip: the push is sent once."""
        apple = await self.apple("far", delay_s=0.28)
        await self.start()
        phone = await self.phone(FLUTTER_IOS, apple)
        connections = apple.relay.accepted
        self.assertEqual(await self.outcomes(self.call(phone)), ["answered"])
        self.assertEqual(apple.server.record.received_count, 1)
        self.assertEqual(apple.relay.accepted, connections)
