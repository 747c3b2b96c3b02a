"""What is recorded of ended calls, and when."""

from __future__ import annotations

import json
from typing import cast

import attrs
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from middlewared.calls.call_log import CallLog
from middlewared.calls.ringing import EndedCall, EndedRequest
from middlewared.calls.trace import Trace
from middlewared.logs.formats import format_json
from middlewared.metrics import Metrics
from middlewared.model import (
    Answer,
    Call,
    Device,
    DeviceKind,
    IncomingCall,
    LateAnswer,
    Outcome,
    Platform,
    ResponseRecord,
    Settlement,
    Wakeup,
)
from middlewared.quoting import fingerprint
from tests.recording import NotRecording

START = 1_700_000_000.0
CALL = Call("key", IncomingCall(123456789, "0612345678", call_id="id"), START, START + 4, START)
KEY = "0123456789abcdef0123456789abcdef"
KIND = DeviceKind("app", Platform.GCM)
ANSWERED = Settlement(Outcome.ANSWERED, Answer(True, START + 0.1, START + 1.5))


class CallLogTests(SynchronousTestCase):
    """With the real metrics."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.metrics = Metrics()
        self.rows: list[ResponseRecord] = []
        self.wakeups: list[Wakeup] = []
        self.late: list[tuple[LateAnswer, float]] = []
        self.wall_step_s = 0.0
        self.call_log = CallLog(
            clock=self.clock,
            wall=lambda: self.clock.seconds() + self.wall_step_s,
            metrics=self.metrics,
            log_response=self.rows.append,
            log_wakeup=self.wakeups.append,
            log_late=lambda late, received_time: self.late.append((late, received_time)),
            recorder=NotRecording(),
            daemon="host:1",
        )
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def lines(self, level: LogLevel = LogLevel.info) -> list[str]:
        found = (event for event in self.events if event["log_level"] is level)
        return [formatEvent(event) for event in found]

    def request(self, *, joined: bool, replied_at: float, began_at: float = START) -> EndedRequest:
        trace = Trace(lambda: began_at)
        trace.mark("replied", replied_at)
        return EndedRequest(CALL, trace, joined, None if joined else KIND, ANSWERED)

    def test_nothing_is_recorded_at_once(self) -> None:
        """The reply to the PBX goes first."""
        self.call_log.ended(self.request(joined=False, replied_at=START))
        self.assertEqual(self.events, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.lines()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_flush_records_all(self) -> None:
        """At the stop nothing is left, and no timer either."""
        self.call_log.ended(self.request(joined=False, replied_at=START))
        self.call_log.flush()
        self.assertEqual(len(self.lines()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_line_of_a_request(self) -> None:
        """Key, call_id, account, platform, outcome and steps; the number only at debug."""
        self.call_log.ended(self.request(joined=False, replied_at=START + 1.502))
        self.call_log.ended(self.request(joined=True, replied_at=START + 1.502))
        self.call_log.flush()
        self.assertEqual(
            self.lines(),
            [
                "call answered unique_key=key fingerprint=2c70e12b call_id=id"
                " sip_user_id=123456789 app=app platform=gcm daemon=host:1 replied=1502.0",
                "call answered (joined) unique_key=key fingerprint=2c70e12b call_id=id"
                " sip_user_id=123456789 app=- platform=unknown daemon=host:1 replied=1502.0",
            ],
        )
        self.assertIn("0612345678", self.lines(LogLevel.debug)[0])

    def test_pbx_of_a_request(self) -> None:
        """By its name, if it has a section; other lines have no such field."""
        request = self.request(joined=False, replied_at=START + 1.0)
        self.call_log.ended(attrs.evolve(request, pbx="office"))
        self.call_log.ended(request)
        self.call_log.flush()
        named, plain = self.lines()
        self.assertIn(" platform=gcm daemon=host:1 pbx=office replied=1000.0", named)
        self.assertNotIn("pbx", plain)
        fields = [event for event in self.events if event["log_level"] is LogLevel.info]
        self.assertEqual([event.get("pbx") for event in fields], ["office", None])

    def test_steps_are_numbers_in_json(self) -> None:
        """A program need not parse the line."""
        trace = Trace(lambda: START)
        trace.mark("push", START + 0.0412, note="accepted")
        trace.mark("replied", START + 0.0415)
        self.call_log.ended(EndedRequest(CALL, trace, False, KIND, ANSWERED))
        self.call_log.flush()
        (event,) = (each for each in self.events if "durations" in each)
        self.assertEqual(
            json.loads(format_json(event, "host:1"))["durations"],
            [
                {"step": "push", "milliseconds": 41.2, "note": "accepted"},
                {"step": "replied", "milliseconds": 0.3},
            ],
        )

    def test_key_of_a_call_that_waits_is_not_shown(self) -> None:
        """One of two PBXs has hung up: who reads the line could answer the other's call."""
        incoming = attrs.evolve(CALL.incoming, call_id=KEY)
        call = attrs.evolve(CALL, unique_key=KEY, incoming=incoming)
        request = self.request(joined=False, replied_at=START)
        request = attrs.evolve(request, call=call, settlement=None)
        self.call_log.ended(attrs.evolve(request, waits=lambda: True))
        self.call_log.ended(attrs.evolve(request, waits=lambda: False))
        self.call_log.flush()
        during, after = self.lines()
        mark = fingerprint(KEY)
        self.assertIn(f"unique_key=- fingerprint={mark} call_id=fingerprint:{mark} ", during)
        self.assertNotIn(KEY, during + self.lines(LogLevel.debug)[0])
        self.assertIn(f"unique_key={KEY} fingerprint={fingerprint(KEY)} call_id={KEY} ", after)

    def test_key_of_another_call_is_not_shown(self) -> None:
        """One caller's UUID rings two accounts: it is the key of the other call."""
        request = self.request(joined=False, replied_at=START)
        incoming = attrs.evolve(CALL.incoming, call_id=KEY)
        self.call_log.ended(attrs.evolve(request, call=attrs.evolve(CALL, incoming=incoming)))
        self.call_log.flush()
        self.assertNotIn(KEY, self.lines()[0])

    def test_call_id_cannot_pose_as_another_field(self) -> None:
        """Callers choose it: anything but one word is quoted."""
        incoming = attrs.evolve(CALL.incoming, call_id="x sip_user_id=7")
        request = self.request(joined=False, replied_at=START)
        call = attrs.evolve(CALL, incoming=incoming)
        self.call_log.ended(attrs.evolve(request, call=call))
        self.call_log.flush()
        self.assertIn("call_id='x sip_user_id=7' ", self.lines()[0])

    def test_answered_call(self) -> None:
        """Counted, timed from the accepted push, and one row for the response log."""
        self.call_log.ended(EndedCall(KIND, START, START + 0.5, ANSWERED))
        self.call_log.flush()
        self.assertEqual(
            self.value("middlewared_calls_total", app="app", platform="gcm", outcome="answered"), 1
        )
        self.assertEqual(
            self.value("middlewared_wakeup_seconds_sum", app="app", platform="gcm"), 1.0
        )
        (row,) = self.rows
        self.assertEqual((row.platform, row.available), (Platform.GCM, True))
        self.assertAlmostEqual(row.roundtrip_seconds, 1.4, places=3)

    def test_absurd_start_time_is_ignored(self) -> None:
        """A phone may echo anything: then our own start counts."""
        for echoed in (0.0, START + 100, float("nan")):
            answer = Answer(True, echoed, START + 1.5)
            settlement = Settlement(Outcome.ANSWERED, answer)
            self.call_log.ended(EndedCall(KIND, START, None, settlement))
        self.call_log.flush()
        self.assertEqual([row.roundtrip_seconds for row in self.rows], [1.5] * 3)

    def test_a_step_of_the_wall_clock_changes_no_duration(self) -> None:
        """The row is stamped by the stepped clock; the round trip is our own measurement."""
        for step_s in (-3600.0, -5.0, 5.0, 60.0):
            self.wall_step_s = step_s
            self.call_log.ended(EndedCall(KIND, START, None, ANSWERED))
            self.call_log.flush()
            row = self.rows[-1]
            self.assertEqual((row.roundtrip_seconds, row.answered_at), (1.5, START + step_s + 1.5))

    def test_silence_and_answers_are_noted(self) -> None:
        """A time-out after an accepted push, and an answer, are stored; other ends are not."""
        device = Device(123456789, Platform.GCM, "app", "token")
        ended = EndedCall(KIND, START, START, Settlement(Outcome.TIMEOUT), 1, device)
        self.call_log.ended(ended)
        self.call_log.ended(attrs.evolve(ended, accepted=0, accepted_at=None))
        self.call_log.ended(attrs.evolve(ended, settlement=ANSWERED))
        self.call_log.flush()
        self.assertEqual(self.wakeups, [Wakeup(device, None), Wakeup(device, START + 1.5)])

    def test_hung_up_call(self) -> None:
        """No outcome, so not among the ended calls; but its device was found."""
        self.call_log.ended(EndedCall(KIND, START, START, None))
        self.call_log.flush()
        families = {each.name: each for each in self.metrics.registry.collect()}
        self.assertEqual(families["middlewared_calls"].samples, [])
        name = "vialer_middleware_incoming_call_success_total"
        self.assertEqual(self.value(name, action="Received", os="Middleware"), 1)

    def test_time_to_the_ack_is_of_requests_that_waited(self) -> None:
        """Joined ones too; not a repeat of a call that was answered before."""
        self.call_log.ended(self.request(joined=False, replied_at=START + 1.5))
        self.call_log.ended(self.request(joined=True, replied_at=START + 1.5))
        self.call_log.ended(self.request(joined=True, replied_at=START + 3, began_at=START + 3))
        self.call_log.flush()
        self.assertEqual(self.value("middlewared_answer_to_ack_seconds_count"), 2)
