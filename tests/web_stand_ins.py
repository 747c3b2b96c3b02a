"""
Stand-ins for the rooms that the web calls, and a client that may send anything.

The stand-ins keep the contracts of their interfaces; the web is the real one, on a socket.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from middlewared.accounts.interface import Account, Authenticator
from middlewared.background import Background
from middlewared.calls.trace import Trace
from middlewared.errors import CredentialsRefused, MiddlewaredError
from middlewared.model import (
    Answer,
    AnswerResult,
    Device,
    IncomingCall,
    Outcome,
    Platform,
    SipUserId,
)
from middlewared.web.health import Health
from middlewared.web.root import Web
from middlewared.web.settings import RouteSet, WebSettings
from middlewared.web.site import LimitedSite
from tests.memory_devices import MemoryDevices

reactor: Any = installed_reactor

APP = "com.example.phone"
SIP_USER_ID = 260010001
PASSWORD = b"right"
KNOWN_APPS = frozenset((APP, platform) for platform in Platform)


class StandInCalls:
    """
    Calls that ring until the test, or a phone, ends them.

    :ivar known_keys: of calls that a look-up finds; ``held_keys``: of those held here.
    """

    def __init__(self) -> None:
        self.rung: list[IncomingCall] = []
        self.ringing: list[Deferred[Outcome]] = []
        self.cancelled: list[IncomingCall] = []
        self.registered_accounts: list[tuple[SipUserId, str]] = []
        self.hung_up = 0
        self.at_once: Outcome | None = None
        self.refusals: list[Outcome] = []
        self.answers: list[tuple[str, Answer]] = []
        self.known_keys: set[str] = set()
        self.held_keys: set[str] = set()
        self.gate: Deferred[None] = succeed(None)
        self.failure: Exception | None = None
        self.changed: Deferred[None] = Deferred()
        self.overloaded = False
        self.held: set[str] = set()
        self.shedded: list[IncomingCall] = []

    def refuse_if_new(self, incoming: IncomingCall) -> bool:
        if incoming.call_id in self.held:
            return False
        self.shedded.append(incoming)
        return True

    async def ring(self, incoming: IncomingCall, trace: Trace) -> Outcome:
        if self.failure is not None:
            raise self.failure
        self.rung.append(incoming)
        trace.mark("device")
        if self.at_once is not None:
            return self.at_once
        ended: Deferred[Outcome] = Deferred()
        self.ringing.append(ended)
        self._notify()
        try:
            return await ended
        except CancelledError:
            self.hung_up += 1
            self._notify()
            raise

    def refused(self, outcome: Outcome) -> None:
        self.refusals.append(outcome)

    async def registered(self, sip_user_id: SipUserId, call_id: str, received_at: float) -> int:
        if self.failure is not None:
            raise self.failure
        self.registered_accounts.append((sip_user_id, call_id))
        return len(self.held)

    async def cancel(self, incoming: IncomingCall) -> bool:
        if self.failure is not None:
            raise self.failure
        self.cancelled.append(incoming)
        return incoming.call_id in self.held

    def holds(self, incoming: IncomingCall) -> bool:
        return incoming.call_id in self.held

    def holds_key(self, unique_key: str) -> bool:
        return unique_key in self.held_keys

    def rules_out_key(self, unique_key: str) -> bool:
        return unique_key not in self.known_keys

    def knows_key(self, unique_key: str) -> bool:
        return unique_key in self.held_keys or unique_key.startswith("ours")

    async def answer(self, unique_key: str, answer: Answer) -> AnswerResult:
        if self.failure is not None:
            raise self.failure
        self.answers.append((unique_key, answer))
        if not self.gate.called:
            await self.gate
        known = unique_key in self.known_keys | self.held_keys
        return AnswerResult.ACCEPTED if known else AnswerResult.UNKNOWN

    async def until(self, rung: int = 0, hung_up: int = 0) -> None:
        """Wait until so many calls ring and so many PBXs have hung up."""
        while len(self.ringing) < rung or self.hung_up < hung_up:
            self.changed = Deferred()
            await self.changed

    def _notify(self) -> None:
        if not self.changed.called:
            self.changed.callback(None)


class StandInRepeats:
    """Keeps every line that would be logged or counted."""

    def __init__(self) -> None:
        self.counted: list[str] = []

    def count(self, kind: str) -> None:
        self.counted.append(kind)

    def is_first(self, kind: str) -> bool:
        self.counted.append(kind)
        return True


class StandInAccounts:
    """Two accounts, whose login is their sip_user_id and whose password is ``PASSWORD``."""

    def __init__(self) -> None:
        self.needs_credentials = True
        self.at_once = 100
        self.failure: MiddlewaredError | None = None
        self.asked = 0
        self.gate: Deferred[None] = succeed(None)

    async def authenticate(self, authorization: bytes) -> Account:
        self.asked += 1
        if not self.gate.called:
            await self.gate
        if self.failure is not None:
            raise self.failure
        if not authorization:
            return Account(None)
        for login in range(SIP_USER_ID, SIP_USER_ID + 2):
            if authorization == basic(login)["Authorization"].encode():
                return Account(login)
        raise CredentialsRefused("not one of ours")


@attrs.frozen
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RawClient(Protocol):
    """A client that sends any bytes and reads responses."""

    transport: Any
    reset = False

    def __init__(self) -> None:
        self.received = b""
        self._waiter: Deferred[None] | None = None
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._wake()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.reset = reason is None or reason.check(ConnectionDone) is None
        self.closed.callback(None)
        self._wake()

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> Deferred[None]:
        """Close, at once."""
        self.transport.abortConnection()
        return self.closed

    async def response(self, *, head_only: bool = False) -> Response:
        """The next response; AssertionError when the connection closes before its end."""
        while b"\r\n\r\n" not in self.received:
            await self._more()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = 0 if head_only else int(headers.get("content-length", "0"))
        while len(self.received) < length:
            await self._more()
        body, self.received = self.received[:length], self.received[length:]
        return Response(int(status_line.split(" ")[1]), headers, body)

    async def _more(self) -> None:
        if self.closed.called:
            raise AssertionError(f"connection closed after {self.received!r}")
        self._waiter = Deferred()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)


def http_message(
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A well-formed request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def basic(login: int | str = SIP_USER_ID, password: bytes = PASSWORD) -> dict[str, str]:
    """The Authorization header of an app."""
    secret = base64.b64encode(str(login).encode() + b":" + password).decode()
    return {"Authorization": f"Basic {secret}"}


class WebCase(TestCase):
    """A whole web on loopback; everything it logs at error or above fails the test."""

    settings = WebSettings(known_apps=KNOWN_APPS)

    async def setUp(self) -> None:  # type: ignore[override]
        self.calls = StandInCalls()
        self.accounts = StandInAccounts()
        self.devices = MemoryDevices()
        self.repeats = StandInRepeats()
        self.background = Background()
        self.lost: list[tuple[Device, Device]] = []
        self.reports: list[tuple[SipUserId, Mapping[str, str]]] = []
        self.hangups: list[tuple[Device, str, str]] = []
        self.pbx_requests: list[tuple[str, Outcome]] = []
        self.observed: list[tuple[str, str, int]] = []
        self.health = Health(database_up=True, redis_up=None, waiting=0)
        self.clients: list[RawClient] = []
        self.sites: list[LimitedSite] = []
        self.web = Web(
            clock=reactor,
            wall=reactor.seconds,
            settings=self.settings,
            calls=self.calls,
            devices=self.devices,
            accounts=self.make_accounts(),
            background=self.background,
            notify_lost=lambda lost, present: self.lost.append((lost, present)),
            report=lambda account, report: self.reports.append((account, report)),
            hangup=lambda *hangup: self.hangups.append(hangup),
            health=lambda: self.health,
            repeats=self.repeats,
            observe_request=lambda route, method, code, _: self.observed.append(
                (route, method, code)
            ),
            observe_pbx=lambda *request: self.pbx_requests.append(request),
        )
        self.port = await self.listen(RouteSet.ALL)
        self._watch_log()

    def make_accounts(self) -> Authenticator:
        """The account backend; ``self.accounts`` unless the test wants another."""
        return self.accounts

    async def listen(self, routes: RouteSet) -> int:
        """Serve ``routes``; returns the port."""
        site = self.web.site(routes)
        self.sites.append(site)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
        self.addCleanup(port.stopListening)
        self.addCleanup(self._close_clients)
        return int(port.getHost().port)

    async def connect(self, port: int | None = None) -> RawClient:
        """A client of its own connection."""
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port or self.port)
        client: RawClient = await endpoint.connect(Factory.forProtocol(RawClient))
        self.clients.append(client)
        return client

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> Response:
        """One request on a connection of its own."""
        client = await self.connect(port)
        client.send(http_message(method, path, body, headers))
        response = await client.response(head_only=method == "HEAD")
        await client.close()
        return response

    async def post_json(
        self, path: str, value: object, headers: Mapping[str, str] | None = None
    ) -> Response:
        """POST ``value`` as JSON."""
        content_type = {"Content-Type": "application/json"}
        return await self.request(
            "POST", path, json.dumps(value).encode(), content_type | dict(headers or {})
        )

    async def post_form(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> Response:
        """POST ``body`` as a form."""
        content_type = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.request("POST", path, body, content_type | dict(headers or {}))

    async def _close_clients(self) -> None:
        for client in self.clients:
            if not client.closed.called:
                await client.close()
        await self.background.finish()
        while any(site.connections for site in self.sites):
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn

    def _watch_log(self) -> None:
        self.troubles: list[LogEvent] = []

        def watch(event: LogEvent) -> None:
            if event.get("log_level", LogLevel.info) >= LogLevel.error:
                self.troubles.append(event)

        publisher: Any = globalLogPublisher
        publisher.addObserver(watch)
        self.addCleanup(self.assertEqual, self.troubles, [])
        self.addCleanup(publisher.removeObserver, watch)
