"""The rendezvous over a Redis Cluster: two daemons at 3 real masters and their replicas."""

from __future__ import annotations

import time

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from middlewared.outgoing.endpoints import DirectEndpoints
from middlewared.rendezvous.redis import RedisRendezvous
from tests.contracts.rendezvous import RendezvousContract
from tests.servers.redis import shared_cluster


class ClusterRendezvousTests(RendezvousContract, TestCase):
    """Two members at one Cluster, each knowing another seed."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.cluster = shared_cluster()
        for master in self.cluster.masters:
            master.run("FLUSHALL")
        self.here = await self.member(self.cluster.nodes[:1])
        self.there = await self.member(self.cluster.nodes[2:4])

    async def member(self, seeds: list[tuple[str, int]]) -> RedisRendezvous:
        member = RedisRendezvous(
            clock=reactor, endpoints=DirectEndpoints(reactor), nodes=seeds, cluster=True
        )
        self.addCleanup(member.stop)
        await member.start()
        return member

    async def moment_after(self, deadline: float) -> None:
        await deferLater(reactor, deadline - time.time() + 0.05)
