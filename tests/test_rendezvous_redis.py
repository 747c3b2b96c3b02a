"""The rendezvous over a standalone Redis: two daemons at a real server."""

from __future__ import annotations

import time

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from middlewared.outgoing.endpoints import DirectEndpoints
from middlewared.rendezvous.redis import RedisRendezvous
from tests.contracts.rendezvous import RendezvousContract
from tests.servers.redis import shared_server


class RedisRendezvousTests(RendezvousContract, TestCase):
    """Two members at one server."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.server = shared_server()
        self.server.run("FLUSHALL")
        self.here = await self.member()
        self.there = await self.member()

    async def member(self) -> RedisRendezvous:
        member = RedisRendezvous(
            clock=reactor, endpoints=DirectEndpoints(reactor), nodes=[self.server.node]
        )
        self.addCleanup(member.stop)
        await member.start()
        return member

    async def moment_after(self, deadline: float) -> None:
        await deferLater(reactor, deadline - time.time() + 0.05)
