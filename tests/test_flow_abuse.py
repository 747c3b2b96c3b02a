"""A real daemon under abuse: what others do to it must not affect the calls it holds."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
import uuid
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread

from middlewared.simulator.generations import GCM_3
from middlewared.simulator.record import GooglePush
from tests.test_flow_calls import SILENT, FlowTestCase

HELD = 100
SLOW = 200
MEGABYTE = 1 << 20
BODY_MEGABYTES = 30


def send_body(address: tuple[str, int], *, chunked: bool) -> bytes:
    """Send all of a huge body without reading the answer, then read it."""
    piece = b"x" * MEGABYTE
    if chunked:
        framing, piece = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (MEGABYTE, piece)
    else:
        framing = b"Content-Length: %d" % (BODY_MEGABYTES * MEGABYTE)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(
            b"POST /api/call-response/ HTTP/1.1\r\nContent-Type: application/json\r\n"
            + framing
            + b"\r\n\r\n"
        )
        for _ in range(BODY_MEGABYTES):
            connection.sendall(piece)
        return connection.recv(100)


def resident_megabytes(pid: int, name: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (its maximum so far) of a process."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def answer_unknown_calls(address: tuple[str, int], count: int) -> list[http.client.HTTPResponse]:
    """Answer so many calls that do not exist, on one connection."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    responses = []
    for _ in range(count):
        body = json.dumps({"unique_key": uuid.uuid4().hex, "message_start_time": 1})
        connection.request(
            "POST", "/api/call-response/", body, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        response.read()
        responses.append(response)
    connection.close()
    return responses


class AbuseTests(FlowTestCase):
    calls = "roundtrip_wait_ms = 100000\n"

    async def test_unknown_keys_do_not_shut_out_a_call_that_is_held(self) -> None:
        """From the same address: beyond the burst 429, but 202 for the call's own phone."""
        await self.start()
        phone = await self.phone(GCM_3, reaction=SILENT)
        pushed = self.push_to(phone)
        call = self.call()
        push = await pushed
        assert isinstance(push, GooglePush)

        url = urlsplit(self.stage.url)
        address = (str(url.hostname), int(url.port or 0))
        began = time.monotonic()
        floods = [deferToThread(answer_unknown_calls, address, 200) for _ in range(4)]
        responses = [one for flood in await gatherResults(floods) for one in flood]
        most = 100 + 20 * (time.monotonic() - began)
        statuses = Counter(response.status for response in responses)
        self.assertEqual(set(statuses), {404, 429})
        self.assertTrue(100 <= statuses[404] <= most, (statuses, most))
        refused = next(response for response in responses if response.status == 429)
        self.assertEqual(refused.headers["Retry-After"], "1")

        self.assertEqual(await phone.answer(push.data, available=True), 202)
        self.assertTrue((await call).acknowledged)
        await deferLater(reactor, int(refused.headers["Retry-After"]))  # as we were asked to
        later = await deferToThread(answer_unknown_calls, address, 20)
        self.assertEqual({response.status for response in later}, {404})

    async def test_held_calls_do_not_notice_slow_and_huge_requests(self) -> None:
        """200 dripping connections and bodies of 30 MB: all calls answered, memory bounded."""
        await self.start()
        phones = [await self.phone(GCM_3, number=n, reaction=SILENT) for n in range(HELD)]
        calls, data = [], []
        for number, phone in enumerate(phones):  # all at once they may be refused as overload
            pushed = self.push_to(phone)
            calls.append(self.call(number))
            push = await pushed
            assert isinstance(push, GooglePush)
            data.append(push.data)

        before = resident_megabytes(self.stage.daemon.pid, "VmRSS")

        url = urlsplit(self.stage.url)
        address = (str(url.hostname), int(url.port or 0))
        self.drip(address)
        bodies = [deferToThread(send_body, address, chunked=chunked) for chunked in (False, True)]
        for answer in await gatherResults(bodies):
            self.assertTrue(answer.startswith(b"HTTP/1.1 413"), answer)

        for phone, received in zip(phones, data, strict=True):
            self.assertEqual(await phone.answer(received, available=True), 202)
        for result in await gatherResults(calls):
            self.assertTrue(result.acknowledged, result.outcome)
        grown = resident_megabytes(self.stage.daemon.pid, "VmHWM") - before
        self.assertLess(grown, 25)

    def drip(self, address: tuple[str, int]) -> None:
        """Open connections that never finish their requests, and keep them busy."""
        slow = [socket.create_connection(address) for _ in range(SLOW)]

        def drip() -> None:
            for connection in slow:
                with contextlib.suppress(OSError):  # cut by the daemon, as it should
                    connection.send(b"x")

        for connection in slow:
            connection.send(b"POST /api/call-response/ HTTP/1.1\r\nX: ")
            self.addCleanup(connection.close)
        loop = LoopingCall(drip)
        loop.clock = reactor
        self.addCleanup(loop.stop)
        loop.start(0.1)
