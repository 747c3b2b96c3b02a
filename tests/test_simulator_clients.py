"""The simulated account API, phones of benchmarks, PBX and server process, on the wire."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import treq
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed

from middlewared.simulator.accounts_server import (
    PROFILE_PATH,
    AccountsServer,
    basic,
    profile,
    redirect,
)
from middlewared.simulator.answering import Answering
from middlewared.simulator.daemon_process import CHECKOUT
from middlewared.simulator.http1_server import HttpReply, HttpServer, HttpStep, Received
from middlewared.simulator.pbx import PBX
from middlewared.simulator.record import GooglePush
from middlewared.simulator.scripts import ResetConnection, Stall
from tests.h2peer import connect

KEY = "0123456789abcdef0123456789abcdef"


class Daemon(HttpServer):
    """Stands in for the daemon: records requests and replies as scripted."""

    def __init__(self) -> None:
        super().__init__(reactor=reactor)
        self.requests: list[Received] = []
        self.steps: list[HttpStep] = [HttpReply(202)]
        self._awaited: tuple[int, Deferred[None]] | None = None

    def plan(self, received: Received) -> Iterator[HttpStep]:
        self.requests.append(received)
        if self._awaited is not None and len(self.requests) >= self._awaited[0]:
            (_, seen), self._awaited = self._awaited, None
            seen.callback(None)
        yield from self.steps

    def got(self, count: int) -> Deferred[None]:
        """Fires when so many requests have come."""
        seen: Deferred[None] = Deferred()
        if len(self.requests) >= count:
            seen.callback(None)
        else:
            self._awaited = (count, seen)
        return seen


class SocketTestCase(TestCase):
    """An HTTP client, and servers that are stopped after the test."""

    def setUp(self) -> Any:
        self.pool = HTTPConnectionPool(cast(Any, reactor))
        self.pool.retryAutomatically = False
        self.http = HTTPClient(cast(Any, Agent(cast(Any, reactor), pool=self.pool)))
        self.addCleanup(self.pool.closeCachedConnections)
        return Deferred.fromCoroutine(self.prepare())

    async def prepare(self) -> None:
        self.daemon = Daemon()
        await self.serve(self.daemon)

    async def serve(self, server: HttpServer) -> None:
        await server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))


class AccountsTests(SocketTestCase):
    """The account API replies according to the Authorization header."""

    async def prepare(self) -> None:
        self.accounts = AccountsServer(
            reactor=reactor,
            accounts={
                ("user@example.org", "secret"): 123456789,
                "Token user@example.org:abc": 222222222,
                "Token unknown": None,
            },
        )
        await self.serve(self.accounts)

    async def get(self, path: str, authorization: str) -> tuple[int, str]:
        headers: dict[Any, Any] = {"Authorization": authorization}
        response = await self.http.get(
            self.accounts.url + path, headers=headers, allow_redirects=False
        )
        return response.code, await treq.text_content(response)

    async def test_two_requests_lead_to_the_account(self) -> None:
        """The profile leads to the account, for Basic and Token alike."""
        for header, number in (
            (basic("user@example.org", "secret"), "123456789"),
            ("Token user@example.org:abc", "222222222"),
        ):
            status, text = await self.get(PROFILE_PATH, header)
            self.assertEqual(status, 200)
            status, text = await self.get(json.loads(text)["app_account"], header)
            self.assertEqual((status, json.loads(text)["account_id"]), (200, number))
        self.assertEqual(self.accounts.request_count, 4)

    async def test_refusals(self) -> None:
        """Wrong credentials are 401, no app account is null, a foreign account 404."""
        self.assertEqual((await self.get(PROFILE_PATH, basic("user@example.org", "x")))[0], 401)
        self.assertIn("null", (await self.get(PROFILE_PATH, "Token unknown"))[1])
        foreign = "/api/phoneaccount/basic/phoneaccount/123456789/"
        self.assertEqual((await self.get(foreign, "Token user@example.org:abc"))[0], 404)

    async def test_faults(self) -> None:
        """Every fault of the API can be ordered, for either of its requests."""
        header = "Token user@example.org:abc"
        orders = self.accounts.scripts
        for reply in (
            HttpReply(403),
            HttpReply(502, b"<html>", "text/html"),
            redirect("/elsewhere/"),
            HttpReply(200, b"not JSON"),
            HttpReply(200, b"[]"),
            profile("//evil.example.org/"),
        ):
            orders.for_next(1, reply)
            status, text = await self.get(PROFILE_PATH, header)
            self.assertEqual((status, text.encode()), (reply.status, reply.body))
        orders.for_next(1, ResetConnection())
        with self.assertRaises(ResponseFailed):
            await self.get(PROFILE_PATH, header)
        self.accounts.account_scripts.for_token("222222222", HttpReply(500))
        account = "/api/phoneaccount/basic/phoneaccount/222222222/"
        self.assertEqual((await self.get(account, header))[0], 500)

    async def test_numbers_as_accounts(self) -> None:
        """For benchmarks a number as user name is an account of its own."""
        server = AccountsServer(reactor=reactor, numbers_are_accounts=True)
        await self.serve(server)
        self.accounts = server
        self.assertIn("/333333333/", (await self.get(PROFILE_PATH, basic("333333333", "x")))[1])
        self.assertEqual((await self.get(PROFILE_PATH, basic("name", "x")))[0], 401)


class AnsweringTests(SocketTestCase):
    """The phones of benchmarks."""

    def push(self, **changed: str) -> GooglePush:
        """A push by Google."""
        response_api = f"{self.daemon.url}/api/call-response/"
        start = "1575988800.1234567"
        data = {"unique_key": KEY, "response_api": response_api, "message_start_time": start}
        return GooglePush("v1", "t" * 8, {**data, **changed}, "HIGH", 4.0, 0.0)

    async def test_answering_all(self) -> None:
        """The phones of benchmarks answer every push, over kept connections."""
        answering = Answering(reactor=reactor, delay_s=0)
        self.addCleanup(lambda: Deferred.fromCoroutine(answering.stop()))
        for number in range(100):
            answering(self.push(unique_key=f"key-{number}"))
        await self.daemon.got(100)
        keys = {dict(parse_qsl(each.body.decode()))["unique_key"] for each in self.daemon.requests}
        self.assertEqual(len(keys), 100)
        self.assertLessEqual(self.daemon.connections_opened, 100)

    async def test_answers_do_not_share_a_queue(self) -> None:
        """However many answers the daemon lets wait, a further phone's reaches it at once."""
        self.daemon.steps = [Stall()]
        answering = Answering(reactor=reactor, delay_s=0)
        self.addCleanup(lambda: Deferred.fromCoroutine(answering.stop()))
        for number in range(300):
            answering(self.push(unique_key=f"key-{number}"))
        await self.daemon.got(300)
        self.assertEqual(answering.statuses, {})

    async def test_answering_in_turn(self) -> None:
        """Addresses that stand for daemons behind a balancer each get their share."""
        other = Daemon()
        await other.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(other.stop()))
        answering = self.answering_at(self.daemon, other)
        await self.ten_answers(answering)
        self.assertEqual(answering.statuses, {202: 10})
        self.assertEqual((len(self.daemon.requests), len(other.requests)), (5, 5))

    async def test_answering_past_a_busy_daemon(self) -> None:
        """Behind a balancer an answer that one daemon refuses with 503 goes to the next."""
        other = Daemon()
        await other.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(other.stop()))
        other.steps = [HttpReply(503)]
        answering = self.answering_at(self.daemon, other)
        await self.ten_answers(answering)
        self.assertEqual(answering.statuses, {202: 10})
        self.assertEqual((len(self.daemon.requests), len(other.requests)), (10, 5))

    async def test_answering_past_a_dead_daemon(self) -> None:
        """Behind a balancer an answer to a daemon that is gone goes to the next."""
        other = Daemon()
        await other.start()
        await other.stop()
        answering = self.answering_at(self.daemon, other)
        await self.ten_answers(answering)
        self.assertEqual(answering.statuses, {202: 10})
        self.assertEqual(len(self.daemon.requests), 10)

    def answering_at(self, *daemons: Daemon) -> Answering:
        """Phones behind a balancer of ``daemons``."""
        at = [daemon.url.removeprefix("http://") for daemon in daemons]
        answering = Answering(reactor=reactor, delay_s=0, at=at)
        self.addCleanup(lambda: Deferred.fromCoroutine(answering.stop()))
        return answering

    async def ten_answers(self, answering: Answering) -> None:
        """Ten pushes, until all of their phones have a status."""
        for _ in range(10):
            answering(self.push(response_api="http://127.0.0.1:1/api/call-response/"))
        while sum(answering.statuses.values()) < 10:
            await deferLater(cast(Any, reactor), 0)


class PBXTests(SocketTestCase):
    """A PBX reports the daemon's reply."""

    async def prepare(self) -> None:
        await super().prepare()
        self.pbx = PBX(http=self.http, base_url=self.daemon.url, seconds=cast(Any, reactor).seconds)

    async def test_result(self) -> None:
        """Status, body, outcome and step times are read from the answer."""
        timing = ("Server-Timing", "device;dur=0.50, push;dur=1.25, total;dur=300.00")
        headers = (("X-Outcome", "answered"), timing)
        self.daemon.steps = [HttpReply(200, b"status=ACK", "text/plain", headers)]
        result = await self.pbx.place(123456789, caller_id="Jörg", call_id="c-1")
        self.assertTrue(result.acknowledged)
        self.assertEqual((result.outcome, result.content_type), ("answered", "text/plain"))
        self.assertEqual(result.server_timing_ms, {"device": 0.5, "push": 1.25, "total": 300.0})
        self.assertGreaterEqual(result.answered_at, result.placed_at)
        fields = dict(parse_qsl(self.daemon.requests[0].body.decode()))
        self.assertEqual((fields["phonenumber"], fields["caller_id"]), ("+31501234567", "Jörg"))

    async def test_hang_up(self) -> None:
        """Cancelling a call closes its connection."""
        self.daemon.steps = [Stall()]
        calling = self.pbx.place(123456789)
        await self.daemon.got(1)
        calling.cancel()
        with self.assertRaises((CancelledError, ResponseFailed)):
            await calling


class _Output(ProcessProtocol):
    """Lines of a process, one Deferred each."""

    def __init__(self) -> None:
        self.lines: list[Deferred[str]] = [Deferred(), Deferred()]
        self.errors = b""
        self.ended: Deferred[None] = Deferred()
        self._unread = b""
        self._count = 0

    def outReceived(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self.lines[self._count].callback(line.decode())
            self._count += 1

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: object) -> None:
        for line in self.lines:
            if not line.called:
                line.errback(RuntimeError(self.errors.decode()))
        self.ended.callback(None)


class ProcessTests(SocketTestCase):
    """python -m middlewared.simulator"""

    def start_process(self, *options: str) -> tuple[Any, _Output]:
        output = _Output()
        command = [sys.executable, "-m", "middlewared.simulator", *options]
        process = cast(Any, reactor).spawnProcess(
            output, sys.executable, command, env=None, path=str(CHECKOUT)
        )
        return process, output

    async def test_runs_alone(self) -> None:
        """It prints where everything is, serves, and sums up on SIGTERM."""
        process, output = self.start_process("--answer-ms", "5")
        world = json.loads(await output.lines[0])
        headers: dict[Any, Any] = {"Authorization": basic("123456789", "x")}
        response = await self.http.get(world["accounts_url"] + PROFILE_PATH, headers=headers)
        self.assertIn("123456789", await treq.text_content(response))
        push = {
            "to": "phone",
            "data": {
                "unique_key": KEY,
                "message_start_time": "1.5",
                "response_api": f"{self.daemon.url}/api/call-response/",
            },
        }
        headers = {"Authorization": f"key={world['api_key']}"}
        sent = await self.http.post(world["gcm_url"], headers=headers, json=push)
        self.assertEqual(sent.code, 200)
        await treq.content(sent)
        await self.daemon.got(1)
        self.assertIn(f"unique_key={KEY}".encode(), self.daemon.requests[0].body)
        process.signalProcess(signal.SIGTERM)
        seen = json.loads(await output.lines[1])
        await output.ended
        self.assertEqual((seen["google"]["delivered"], output.errors), (1, b""))

    async def test_google_over_https(self) -> None:
        """Google speaks HTTP/2 to a client that offers it, unless it is left out."""
        for options, protocol in (((), "h2"), (("--google-http1",), "http/1.1")):
            process, output = self.start_process("--google-https", *options)
            world = json.loads(await output.lines[0])
            port = urlsplit(world["google_url"]).port
            assert port is not None
            peer = await connect(
                reactor,
                port,
                authority=Path(world["ca_file"]),
                protocols=(b"h2", b"http/1.1"),
            )
            self.assertEqual(await peer.agreed, protocol.encode())
            # SETTINGS, or the refusal of the client's HTTP/2.
            await (peer.ready if protocol == "h2" else peer.lost)
            process.signalProcess(signal.SIGTERM)
            seen = json.loads(await output.lines[1])
            await output.ended
            await peer.lost
            self.assertEqual(seen["google_protocols"], {protocol: 1})
