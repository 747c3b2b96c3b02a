"""
The FCM benchmark with firebase-admin as the client; runs in a venv that has nothing of ours.

Usage: fcm_firebase_admin.py PORT CA PUSHES IN_FLIGHT ; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
import time
import warnings
from collections.abc import Coroutine, Iterable
from typing import Any

from pushes import measure

sys.path.pop(0)  # this folder, whose google.py is not Google's package

import firebase_admin
from firebase_admin import messaging
from google.oauth2.credentials import Credentials

ACCESS_TOKEN = "ya29.c." + "a" * 1017


def make_message(number: int) -> messaging.Message:
    """The same call as the other clients push."""
    data = {
        "type": "call",
        "unique_key": f"{number:032x}",
        "phonenumber": "+31612345678",
        "caller_id": "Alice of Sales",
        "response_api": "https://middlewared.example/api/call-response/",
        "message_start_time": f"{time.time():.7f}",
        "attempt": "1",
        "vg_cid": "call-7",
    }
    android = messaging.AndroidConfig(priority="high", ttl=datetime.timedelta(seconds=4))
    return messaging.Message(data, android=android, token=f"{number:022}:APA91b{'a' * 134}")


async def together(workers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them at once."""
    await asyncio.gather(*workers)


async def main(port: str, ca: str, count: str, in_flight: str) -> None:
    """Push to the peer at ``port``."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of registration tokens
    os.environ["SSL_CERT_FILE"] = ca  # httpx reads it
    url = f"https://localhost:{port}/v1/projects/{{0}}/messages:send"
    messaging._MessagingService.FCM_URL = url
    firebase_admin.initialize_app(Credentials(ACCESS_TOKEN), {"projectId": "p"})

    size = int(in_flight)

    async def send(batch: int) -> bool:
        first = batch * size
        messages = [make_message(number) for number in range(first, first + size)]
        return (await messaging.send_each_async(messages)).failure_count == 0

    # A batch costs less than as many single pushes.
    await measure(send, int(count), size, together, warm_up=500, batch=size)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
