"""
The APNs benchmark's own client: the provider as the daemon uses it.

Usage: apns_middlewared.py PORT CERTIFICATE CA PUSHES IN_FLIGHT ; prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from array import array
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from middlewared.model import Call, Device, IncomingCall, Platform
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.apns.apple_credentials import load_certificate
from middlewared.push.apns.provider import ApnsProvider, ApnsSettings
from middlewared.push.apns.provider_tokens import ProviderTokens
from middlewared.push.interface import Accepted, CallPush

reactor: Any = _reactor
APP = "com.voipgrid.vialer"
WAIT_S = 4.0


def make_push(number: int) -> CallPush:
    """A call as the daemon would have it: token, key and number of its own."""
    now = reactor.seconds()
    incoming = IncomingCall(100_000_000 + number, "+31612345678", "Alice of Sales", "call-7")
    call = Call(f"{number:032x}", incoming, now, now + WAIT_S, now)
    device = Device(incoming.sip_user_id, Platform.APNS, APP, f"{number:064x}")
    return CallPush(device, call, 1, "https://middlewared.example/api/call-response/")


class Load:
    """Keeps ``in_flight`` pushes under way until ``count`` were answered."""

    def __init__(self, provider: ApnsProvider, count: int, in_flight: int) -> None:
        self.took = array("d", bytes(8 * count))
        """Allocated beforehand, so that the memory used later is the provider's."""
        self.failed = 0
        self._provider = provider
        self._count = count
        self._in_flight = in_flight

    async def run(self) -> None:
        """Send them all."""
        self._numbers = iter(range(self._count))
        workers = [Deferred.fromCoroutine(self._work()) for _ in range(self._in_flight)]
        for worker in workers:
            await worker

    async def _work(self) -> None:
        for number in self._numbers:
            began = time.perf_counter()
            result = await self._provider.send(make_push(number))
            self.took[number] = time.perf_counter() - began
            self.failed += not isinstance(result, Accepted)


async def main(_: object, port: str, pem: str, ca: str, count: str, in_flight: str) -> None:
    """Warm up, then measure."""
    credentials = load_certificate(Path(pem), now=reactor.seconds())
    tls = ClientTLS(trust=load_trust(ca), certificate=credentials.certificate, protocols=[b"h2"])
    url = f"https://localhost:{port}"
    provider = ApnsProvider(
        clock=reactor,
        endpoint=DirectEndpoints(reactor),
        tokens=ProviderTokens(clock=reactor),
        settings=ApnsSettings(
            app=APP,
            topic=f"{APP}.voip",
            credentials=credentials,
            tls=tls,
            production_url=url,
            sandbox_url=url,
            connections=1,
        ),
    )
    await provider.start()
    await Load(provider, min(2_000, int(count)), int(in_flight)).run()
    load = Load(provider, int(count), int(in_flight))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    await load.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = sorted(load.took)
    print(
        json.dumps(
            {
                "pushes": len(took),
                "failed": load.failed,
                "wall_s": wall,
                "cpu_s": cpu,
                "p50_ms": took[len(took) // 2] * 1000,
                "p99_ms": took[int(len(took) * 0.99)] * 1000,
                "rss_kb": after,
                "rss_before_kb": before,
            }
        )
    )
    await provider.stop()


if __name__ == "__main__":
    react(main, sys.argv[1:])
