"""
The APNs benchmark with aioapns 4 as the client; runs in a venv that has nothing of ours.

Usage: apns_aioapns.py PORT CERTIFICATE CA PUSHES IN_FLIGHT ; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol
from pushes import measure

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


async def together(workers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them at once."""
    await asyncio.gather(*workers)


async def main(port: str, pem: str, ca: str, count: str, in_flight: str) -> None:
    """Push to the peer at ``port``."""
    APNsProductionClientProtocol.APNS_SERVER = "localhost"
    APNsProductionClientProtocol.APNS_PORT = int(port)
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    client = APNs(client_cert=pem, topic=TOPIC, max_connections=1, ssl_context=context)

    async def send(number: int) -> bool:
        response = await client.send_notification(make_request(number))
        return bool(response.is_successful)

    await measure(send, int(count), int(in_flight), together, warm_up=500)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
