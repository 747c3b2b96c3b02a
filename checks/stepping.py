"""
A wall clock that steps (libfaketime), calls meanwhile, and a search for strange figures in
all that the daemons report.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from generator import Client
from load import ACK, HEALTH, Calls
from world import World

Figures: TypeAlias = dict[str, Any]
# Each differs from the one before: by 5, 60 and 3,600 s, forwards and back.
OFFSETS_S = (5, 0, 60, 0, 3600, 0)
EVERY_S = 6.0
PER_S = 40.0
PHONE_S = 0.3
# Every fourth phone: their tokens are their accounts, which begin at 100,000,001.
SILENT = "048c"
LATE_S = 1.0  # more than this is wrong, on a busy machine too
PLACES = ("/usr/lib", "/usr/local/lib", "/opt")
DURATION = re.compile(r"\b([a-z_-]+)=(-?\d+\.\d+)\b")
TIME = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:.]+Z) ", re.MULTILINE)
SAMPLE = re.compile(r"^(\w+_seconds)(?:_(sum|count))?(\{[^}]*\})? (\S+)$", re.MULTILINE)


class Clock:
    """
    The wall clock that daemons with ``environment`` see; their monotonic one is real.

    :param library: libfaketime; None: it is looked for.
    """

    def __init__(self, file: Path, library: Path | None) -> None:
        found = library or next(_libraries(), None)
        if found is None:
            raise SystemExit("libfaketime is missing (Debian: apt install libfaketime)")
        self._file = file
        self.step_to(0)
        self.environment = {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            # Read the file once a second. Without its cache libfaketime reads it for each wait
            # of a thread, too, and doubles what a daemon costs.
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            # Waits for CPython's lock are timed by the monotonic clock; without this libfaketime
            # lets some of them last for half a second and more.
            "FAKETIME_FORCE_MONOTONIC_FIX": "1",
        }

    def step_to(self, offset_s: int) -> None:
        """Step to so many seconds beside the real time."""
        fresh = self._file.with_suffix(".fresh")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)


def _libraries() -> Iterator[Path]:
    for name in ("libfaketimeMT.so.1", "libfaketime.so.1"):
        for place in PLACES:
            yield from Path(place).rglob(name)


class Scene:
    """
    Calls at a steady rate while the clock steps; a quarter of the phones are silent.

    The others are the simulator's and answer their push: phones that answered at a fixed time,
    push or no push, would be ahead of daemons that libfaketime makes slower.
    """

    def __init__(self, world: World, calls: Calls, clock: Clock, *, wait_s: float) -> None:
        self._world = world
        self._calls = calls
        self._clock = clock
        self._wait_s = wait_s
        self._counts: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._offset_s = 0
        self._health: Counter[str] = Counter()

    async def play(self) -> Figures:
        """All steps, then what the daemons reported."""
        began, tasks, steps = time.perf_counter(), [], len(OFFSETS_S)
        watching = asyncio.create_task(self._watch())
        for number in range(int(PER_S * EVERY_S * (steps + 1))):
            await asyncio.sleep(max(0.0, began + number / PER_S - time.perf_counter()))
            step = int(number / PER_S / EVERY_S)
            self._step_to(OFFSETS_S[step - 1] if step else 0)
            tasks.append(asyncio.create_task(self._ring(number)))
        await asyncio.gather(*tasks)
        watching.cancel()
        await asyncio.sleep(1.5)  # the last lines are written
        strange = [*self._strange_lines(), *[line async for line in self._strange_metrics()]]
        missed = [f"{len(self._wrong)} wrong calls"] if self._wrong else []
        missed += [f"{len(strange)} strange figures"] if strange else []
        missed += [f"/health/ replied {status}" for status in self._health if status != "200"]
        missed += self._not_stepped()
        return {
            "steps_s": OFFSETS_S,
            "calls": dict(self._counts),
            "wrong": len(self._wrong),
            "wrong_first": self._wrong[:5],
            "strange": len(strange),
            "strange_first": strange[:5],
            "health": dict(self._health),
            "missed": missed,
        }

    def _step_to(self, offset_s: int) -> None:
        if offset_s != self._offset_s:
            self._offset_s = offset_s
            self._clock.step_to(offset_s)

    async def _ring(self, number: int) -> None:
        silent = number % 4 == 3
        _, ringing = await self._calls.place(number % 200)
        answer = await ringing
        took_s, due_s = answer.received_at - answer.sent_at, self._wait_s if silent else PHONE_S
        acked = answer.status == 200 and answer.body == ACK
        self._counts["ACK" if acked else "NAK"] += 1
        if acked is silent or not due_s - 0.1 <= took_s <= due_s + LATE_S:
            self._wrong.append(
                f"{'silent' if silent else 'answered'} call at {self._offset_s:+d} s:"
                f" {answer.body.decode()} after {took_s:.2f} s"
            )

    async def _watch(self) -> None:
        client = Client(self._world.addresses)
        while True:
            answer = await client.ask(HEALTH)
            self._health[str(answer.status)] += 1
            await asyncio.sleep(0.1)

    def _strange_lines(self) -> Iterator[str]:
        """Milliseconds in a line about a call that no call can have taken."""
        most_ms = (self._wait_s + LATE_S) * 1000
        for daemon in self._world.daemons:
            for line in daemon.output.splitlines():
                for name, figure in DURATION.findall(line) if "unique_key=" in line else ():
                    if not 0 <= float(figure) <= most_ms:
                        yield f"{name}={figure} in: {line}"

    def _not_stepped(self) -> Iterator[str]:
        """Daemons whose log does not show the greatest step: the scene did not reach them."""
        for number, daemon in enumerate(self._world.daemons):
            times = [datetime.fromisoformat(found) for found in TIME.findall(daemon.output)]
            if (max(times) - min(times)).total_seconds() < max(OFFSETS_S):
                yield f"the clock of daemon {number} did not step"

    async def _strange_metrics(self) -> Any:
        """Negative seconds, or means that are longer than any wait."""
        for address in self._world.metrics:
            client = Client([address])
            request = b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
            text = (await client.ask(request)).body.decode()
            counts = {
                (name, labels): float(figure)
                for name, kind, labels, figure in SAMPLE.findall(text)
                if kind == "count"
            }
            for name, kind, labels, figure in SAMPLE.findall(text):
                seconds = float(figure)
                mean = seconds / max(1.0, counts.get((name, labels), 1.0))
                long = kind == "sum" and mean > self._wait_s + LATE_S
                if kind != "count" and "timestamp" not in name and (seconds < 0 or long):
                    yield f"{name}_{kind}{labels} {figure}"
