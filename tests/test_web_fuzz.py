"""Whole connections of odd bytes: whatever comes, a documented status and a quiet log."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.model import Outcome
from middlewared.web.health import Health
from middlewared.web.root import Web
from middlewared.web.settings import Rate, WebSettings
from tests import EXAMPLES
from tests.memory_devices import MemoryDevices
from tests.web_stand_ins import APP, KNOWN_APPS, StandInAccounts, StandInCalls, StandInRepeats

UNLIMITED = WebSettings(
    known_apps=KNOWN_APPS,
    max_body_bytes=1000,
    refusals_allowed=1_000_000,
    refusals_allowed_of_address=1_000_000,
    unknown_keys=Rate(1_000_000, 1),
    registrations=Rate(1_000_000, 1),
    reports=Rate(1_000_000, 1),
)
DOCUMENTED = {100, 200, 201, 202, 400, 401, 403, 404, 405, 413, 415, 429, 431, 503}

METHODS = [b"POST", b"DELETE", b"GET", b"HEAD", b"BREW"]
PATHS = [
    b"/api/incoming-call/", b"/api/call-response", b"/api/apns-device/", b"/api/log-metrics/%00%ff",
    b"http://[/api/check-in/", b"/api/gcm-device?sip_user_id=260010001&token=t&app=%ff",
    b"/health/", b"/api/hangup-reason/", b"/nowhere", b"*", b"//",
]  # fmt: skip
NAMES = [
    b"Content-Type", b"Authorization", b"Expect", b"Connection", b"Host", b"X-Forwarded-For",
    b"Cookie", b"Upgrade",
]  # fmt: skip
VALUES = [
    b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=b",
    b"multipart/form-data; boundary*=x''%ff", b"100-continue", b"close", b"\xff\xfe", b"websocket",
    b"Basic MjYwMDEwMDAxOnJpZ2h0", b"Basic \xff", b"127.0.0.1, x", b"[::",
]  # fmt: skip
BODIES = [
    b"", b"{}", b'{"sip_user_id": 260010001, "phonenumber": 1}', b"5\r\nabcde\r\n0\r\n\r\n",
    b"sip_user_id=260010001&token=t&unique_key=k&reason=x&app=" + APP.encode(), b"x" * 2000,
    b"unique_key=k&message_start_time=1e9", b"--b\r\n\r\n\r\n--b--",
]  # fmt: skip
CREDENTIALS = b"Authorization: Basic MjYwMDEwMDAxOnJpZ2h0"
FORM = b"Content-Type: application/x-www-form-urlencoded"

values = st.sampled_from(VALUES) | st.binary(max_size=20)
bodies = st.sampled_from(BODIES) | st.binary(max_size=200)


@st.composite
def sound_messages(draw: st.DrawFn) -> bytes:
    """A request whose framing is right, whatever else is wrong."""
    body = draw(bodies)
    lines = [draw(st.sampled_from(METHODS)) + b" " + draw(st.sampled_from(PATHS)) + b" HTTP/1.1"]
    lines += draw(st.sampled_from([[], [CREDENTIALS], [CREDENTIALS, FORM]]))
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        value = draw(values)
        lines.append(name + b": " + value.translate(None, b"\x00\r\n"))
    lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@st.composite
def broken_messages(draw: st.DrawFn) -> bytes:
    """A request with something of its framing replaced."""
    sound = draw(sound_messages())
    start = draw(st.integers(0, len(sound)))
    end = draw(st.integers(start, start + 9))
    odd = st.sampled_from(
        [b"", b"\r\n", b"\n", b"\x00", b":", b" ", b"Content-Length: 3\r\n", b"\r\n\r\n",
         b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0", b"\r\nTransfer-Encoding: x\r\n"]
    ) | st.binary(max_size=9)  # fmt: skip
    return sound[:start] + draw(odd) + sound[end:]


class FuzzTests(SynchronousTestCase):
    def setUp(self) -> None:
        calls = StandInCalls()
        calls.at_once = Outcome.TIMEOUT
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.web = Web(
            clock=self.clock,
            wall=self.clock.seconds,
            settings=UNLIMITED,
            calls=calls,
            devices=MemoryDevices(),
            accounts=StandInAccounts(),
            background=Background(),
            notify_lost=lambda lost, present: None,
            report=lambda account, report: None,
            hangup=lambda device, key, reason: None,
            health=lambda: Health(database_up=True, redis_up=None, waiting=0),
            repeats=StandInRepeats(),
            observe_request=lambda route, method, code, seconds: None,
            observe_pbx=lambda pbx, outcome: None,
        )
        self.site = self.web.site()
        self.troubles: list[LogEvent] = []
        publisher: Any = globalLogPublisher
        publisher.addObserver(self._watch)
        self.addCleanup(publisher.removeObserver, self._watch)

    def _watch(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.warn:
            self.troubles.append(event)

    def _exchange(self, sent: bytes, size: int) -> bytes:
        """What is answered to ``sent``, which comes in pieces of ``size``."""
        peer: Any = IPv4Address("TCP", "127.0.0.1", 1)
        channel = self.site.buildProtocol(peer)
        transport: Any = StringTransport(peer, peer)
        transport.loseWriteConnection = transport.loseConnection
        channel.makeConnection(transport)
        for start in range(0, len(sent), size):
            if not transport.disconnecting:
                channel.dataReceived(sent[start : start + size])
        answered: bytes = transport.value()
        transport.loseConnection()
        channel.connectionLost(None)
        return answered

    @settings(max_examples=3 * EXAMPLES)
    @given(
        st.lists(sound_messages() | broken_messages(), max_size=4), st.sampled_from([1, 7, 10_000])
    )
    @example(
        [b"POST /api/check-in/ HTTP/1.1\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n"], 9999
    )
    def test_any_connection_is_answered_as_documented(self, sent: list[bytes], size: int) -> None:
        """No 500, no traceback, and nothing is left behind when it closes."""
        answered = self._exchange(b"".join(sent), size)
        statuses = {int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d+) ", answered, re.M)}
        self.assertEqual(statuses - DOCUMENTED, set())
        self.assertEqual(self.troubles, [])
        self.assertEqual((self.clock.getDelayedCalls(), self.site.connections), ([], 0))
