"""
How long an answer takes to reach its call: inside one process, and between two members over Redis.

    python bench/rendezvous.py [--calls 2000] [--at-once 50]

Starts a standalone server and a Cluster of its own. Both members are this process, so the
CPU figures count the work of the two daemons together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

sys.path.insert(0, str(Path(__file__).parents[1]))

from middlewared.model import Answer, Call, IncomingCall
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.rendezvous.interface import Rendezvous
from middlewared.rendezvous.memory import MemoryRendezvous, fresh_key
from middlewared.rendezvous.redis.redis_rendezvous import RedisRendezvous
from tests.servers.redis import shared_cluster, shared_server


async def one_call(here: Rendezvous, there: Rendezvous, call_id: str) -> float:
    """Join here, answer there; milliseconds from the answer to the settled waiter."""
    now = time.time()
    incoming = IncomingCall(123456789, "0123456789", call_id=call_id)
    waiter = await here.join(Call(fresh_key(), incoming, now, now + 30, now))
    began = time.perf_counter()
    settled: list[float] = []
    waiter.settled.addCallback(lambda _: settled.append(time.perf_counter()))
    await there.answer(waiter.call.unique_key, Answer(True, now, now))
    await waiter.settled
    waiter.leave()
    return (settled[0] - began) * 1000


async def measure(name: str, here: Rendezvous, there: Rendezvous, options: Any) -> None:
    """One call after the other for the latency; many at once for the throughput."""
    alone = [await one_call(here, there, f"{name}-{number}") for number in range(500)]
    numbers = iter(range(options.calls))

    async def caller() -> None:
        for number in numbers:
            await one_call(here, there, f"{name}-many-{number}")

    wall, cpu = time.perf_counter(), time.process_time()
    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(options.at_once)])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{name:28} answer->settled p50 {statistics.median(alone):6.3f} ms"
        f" p99 {statistics.quantiles(alone, n=100)[98]:6.3f} ms;"
        f" {options.calls / wall:7.0f} calls/s, {options.calls / cpu:7.0f} calls per CPU second"
    )


async def shared(name: str, options: Any, **nodes: Any) -> None:
    """Two daemons; answers at the other one, then at the one that holds the call."""
    members = [
        RedisRendezvous(clock=reactor, endpoints=DirectEndpoints(reactor), **nodes)
        for _ in range(2)
    ]
    for member in members:
        await member.start()
    await measure(f"{name}, other daemon", members[0], members[1], options)
    await measure(f"{name}, same daemon", members[0], members[0], options)
    for member in members:
        await member.stop()


async def main(_: object, options: Any) -> None:
    memory = MemoryRendezvous(clock=reactor)
    await measure("in process", memory, memory, options)
    await memory.stop()
    await shared("standalone", options, nodes=[shared_server().node])
    await shared("cluster", options, nodes=shared_cluster().nodes, cluster=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=50)
    arguments = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
