"""The rendezvous over a Redis Cluster: two daemons at 3 real masters and their replicas."""

from __future__ import annotations

from tests.contracts.rendezvous import RendezvousContract
from tests.redis_members import SharedRendezvousCase
from tests.servers.redis import shared_cluster


class ClusterRendezvousTests(SharedRendezvousCase, RendezvousContract):
    """Two members at one Cluster, each knowing other seeds, one of them a replica."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        cluster = shared_cluster()
        for master in cluster.masters:
            master.run("FLUSHALL")
        self.here = await self.member(cluster.nodes[:1], cluster=True)
        self.there = await self.member(cluster.nodes[2:4], cluster=True)

    async def test_up_reports_the_whole_cluster(self) -> None:
        """A Cluster is up when all of its masters are connected."""
        member = await self.member(shared_cluster().nodes[4:], cluster=True)
        self.assertTrue(member.up)
