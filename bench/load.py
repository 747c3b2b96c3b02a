"""
The load: a PBX and phones at the daemons of a world, and the two shapes it comes in.

A closed loop begins the next piece of work when one has ended, an open loop at fixed times.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Awaitable, Callable

from generator import Answer, Client, form_request
from world import APP, World

FIRST_ACCOUNT = 100_000_001
ACK = b"status=ACK"
PATIENCE = 10  # quiet seconds until calls that are not held count as refused
ANSWER = "/api/call-response/"
HEALTH = b"GET /health/ HTTP/1.1\r\nHost: bench\r\n\r\n"


class Calls:
    """PBX and phones at a world's daemons."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pbx = Client(world.addresses)
        self.phones = Client(world.addresses)

    def close(self) -> None:
        """Close the idle connections."""
        self.pbx.close()
        self.phones.close()

    async def register(self, accounts: int, at_once: int = 100) -> None:
        """One phone for each account."""
        await each(range(accounts), at_once, self.register_one)

    async def register_one(self, number: int) -> None:
        """Register the phone of an account."""
        account, platform = FIRST_ACCOUNT + number, self.world.setup.platform
        fields = {
            "sip_user_id": str(account),
            "token": f"{account:064x}",
            "app": APP,
            "push_profile": "once",
        }
        credentials = base64.b64encode(f"{account}:password".encode()).decode()
        headers = f"Authorization: Basic {credentials}\r\n"
        answer = await self.phones.ask(form_request(f"/api/{platform}-device/", fields, headers))
        assert answer.status in (200, 201), answer

    async def place(self, number: int, *, keep: bool = True) -> tuple[str, asyncio.Task[Answer]]:
        """Place a call: its key, and the answer to come."""
        key = uuid.uuid4().hex
        return key, asyncio.create_task(self.pbx.ask(call_request(number, key, keep=keep)))

    async def answer(self, key: str) -> Answer:
        """The phone of a call answers; again, when the daemon has not got to its call yet."""
        fields = {"unique_key": key, "message_start_time": f"{time.time():.7f}"}
        request = form_request(ANSWER, fields)
        while True:
            answer = await self.phones.ask(request)
            if answer.status == 202:
                return answer
            assert answer.status == 404, answer
            await asyncio.sleep(0.05)

    async def settled(self, waiting: int) -> None:
        """Until the daemons hold so many calls and have nothing else to do."""
        spent, patience = 0.0, PATIENCE
        while patience:
            await asyncio.sleep(1)
            before, spent = spent, sum(daemon.cpu_s for daemon in self.world.daemons)
            if spent - before < 0.1:
                if (held := await self._held()) >= waiting:
                    return
                patience -= 1
        raise SystemExit(f"the daemons hold {held} of {waiting} calls: they refused the others")

    async def _held(self) -> int:
        answers = [await self.phones.ask(HEALTH) for _ in self.world.addresses]
        return sum(json.loads(answer.body)["waiting"] for answer in answers)

    async def ring(self, number: int, phone_s: float) -> float:
        """A call whose phone answers after ``phone_s``: ms from its answer to the ACK."""
        key, ringing = await self.place(number)
        await asyncio.sleep(phone_s)
        answer = await self.answer(key)
        ack = await ringing
        assert ack.body == ACK, ack
        return (ack.received_at - answer.sent_at) * 1000


def call_request(number: int, key: str, *, keep: bool) -> bytes:
    """What a PBX sends."""
    fields = {
        "sip_user_id": str(FIRST_ACCOUNT + number),
        "phonenumber": "+31501234567",
        "caller_id": "Alice of Sales",
        "call_id": key,
    }
    return form_request("/api/incoming-call/", fields, keep=keep)


async def each(numbers: range, at_once: int, work: Callable[[int], Awaitable[None]]) -> None:
    """``work`` for all ``numbers``, ``at_once`` at a time (a closed loop)."""
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await work(number)

    await asyncio.gather(*[worker() for _ in range(at_once)])


async def paced(numbers: range, per_second: float, work: Callable[[int], Awaitable[None]]) -> None:
    """``work`` for all ``numbers``, begun at a steady rate (an open loop)."""
    began, tasks = time.perf_counter(), []
    for count, number in enumerate(numbers):
        ahead_s = began + count / per_second - time.perf_counter()
        if ahead_s > 0.001:
            await asyncio.sleep(ahead_s)
        tasks.append(asyncio.ensure_future(work(number)))
    await asyncio.gather(*tasks)
