"""
The APNs benchmark with aioapns 4 as the client; runs in a venv that has nothing of ours.

Usage: apns_aioapns.py PORT CERTIFICATE CA PUSHES IN_FLIGHT ; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol

TOPIC = "com.voipgrid.vialer.voip"


def make_request(number: int) -> NotificationRequest:
    """The same call as the other clients push."""
    message = {
        "aps": {},
        "type": "call",
        "unique_key": f"{number:032x}",
        "phonenumber": "+31612345678",
        "caller_id": "Alice of Sales",
        "response_api": "https://middlewared.example/api/call-response/",
        "message_start_time": time.time(),
        "attempt": 1,
        "vg_cid": "call-7",
    }
    return NotificationRequest(
        device_token=f"{number:064x}",
        message=message,
        time_to_live=4,
        priority=10,
        push_type=PushType.VOIP,
    )


async def run(client: APNs, count: int, in_flight: int) -> tuple[list[float], int]:
    """Keep ``in_flight`` pushes under way; how long each took, and how many failed."""
    numbers = iter(range(count))
    took: list[float] = []
    failed = 0

    async def work() -> None:
        nonlocal failed
        for number in numbers:
            began = time.perf_counter()
            response = await client.send_notification(make_request(number))
            took.append(time.perf_counter() - began)
            failed += not response.is_successful

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return took, failed


async def main(port: str, pem: str, ca: str, count: str, in_flight: str) -> None:
    """Warm up, then measure."""
    APNsProductionClientProtocol.APNS_SERVER = "localhost"
    APNsProductionClientProtocol.APNS_PORT = int(port)
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    client = APNs(client_cert=pem, topic=TOPIC, max_connections=1, ssl_context=context)
    await run(client, 500, int(in_flight))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    took, failed = await run(client, int(count), int(in_flight))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    took.sort()
    result = {
        "pushes": len(took),
        "failed": failed,
        "wall_s": wall,
        "cpu_s": cpu,
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
        "rss_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "rss_before_kb": rss,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
