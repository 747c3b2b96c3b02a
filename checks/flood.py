"""Answers with made-up keys, from many addresses, at a steady rate."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter

from generator import Connection, form_request
from load import ANSWER

CONNECTIONS = 300


class Flood:
    """
    Sends to one daemon from 127.0.1.1 and the addresses after it, so that limits for one
    address do not end it.

    :ivar statuses: what the daemon answered; 0: it closed the connection.
    """

    def __init__(self, address: tuple[str, int], *, per_second: float, sources: int) -> None:
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self._address = address
        self._per_second = per_second
        self._sources = sources

    async def run(self, seconds: float) -> None:
        """Send for so long, at a rate that all connections share."""
        began = time.perf_counter()
        work = [self._client(number, began, began + seconds) for number in range(CONNECTIONS)]
        await asyncio.gather(*work)

    async def _client(self, number: int, began: float, ends: float) -> None:
        every_s = CONNECTIONS / self._per_second
        due, connection = began + number / CONNECTIONS * every_s, None
        while (due := due + every_s) < ends:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if connection is None or not connection.open:
                connection = await self._connect(number)
            self.sent += 1
            asked = connection.ask(_made_up())
            await asyncio.wait([asked], timeout=5)
            self.statuses[asked.result().status if asked.done() else -1] += 1
            if not asked.done():
                connection.open = False
                connection.transport.abort()
            # A flood does not make up for what a late answer held back.
            due = max(due, time.perf_counter() - every_s)
        if connection is not None:
            connection.transport.abort()

    async def _connect(self, number: int) -> Connection:
        loop = asyncio.get_running_loop()
        here = (f"127.0.1.{1 + number % self._sources}", 0)
        _, connection = await loop.create_connection(Connection, *self._address, local_addr=here)
        return connection


def _made_up() -> bytes:
    fields = {"unique_key": str(uuid.uuid4()), "message_start_time": f"{time.time():.7f}"}
    return form_request(ANSWER, fields)
