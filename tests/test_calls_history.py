"""What of a call is kept in the history, and when."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred

from middlewared.calls.call_log import CallLog
from middlewared.history.interface import (
    CallRecord,
    DeviceEvent,
    Hindrance,
    KeptAnswer,
)
from middlewared.metrics import Metrics
from middlewared.model import Outcome
from middlewared.push.interface import UNWANTED, Accepted, PushResult, Temporary, TokenSuspect
from middlewared.quoting import fingerprint
from tests.recording import NotRecording
from tests.test_calls_ringing import CALL, IPHONE, PHONE, START, RingingCase


class Kept(NotRecording):
    """Takes what is to be kept."""

    recording = True

    def __init__(self) -> None:
        self.calls: list[CallRecord] = []
        self.answers: list[tuple[str, str, KeptAnswer]] = []
        self.joined: list[tuple[str, str, float]] = []
        self.events: list[DeviceEvent] = []

    def keep_calls(self, records: Sequence[CallRecord]) -> None:
        self.calls.extend(records)

    def keep_answer(self, unique_key: str, sip_user_id: str, answer: KeptAnswer) -> None:
        self.answers.append((unique_key, sip_user_id, answer))

    def keep_joined(self, unique_key: str, sip_user_id: str, time: float) -> None:
        self.joined.append((unique_key, sip_user_id, time))

    def keep_device_event(self, event: DeviceEvent) -> None:
        self.events.append(event)


class HistoryOfCallsTests(RingingCase):
    """Calls, and the call log that keeps them."""

    def setUp(self) -> None:
        self.kept = self.recorder = Kept()
        super().setUp()
        self.call_log = CallLog(
            clock=self.clock,
            wall=lambda: self.clock.seconds() + 1000,
            metrics=Metrics(),
            log_response=lambda _: None,
            log_wakeup=lambda _: None,
            log_late=lambda *_: None,
            recorder=self.kept,
            daemon="host:1",
        )

    def record(self) -> None:
        """Let the call log record what has ended."""
        ended, self.ended[:] = list(self.ended), []
        for each in ended:
            self.call_log.ended(each)
        self.call_log.flush()

    def the_call(self) -> CallRecord:
        self.record()
        (call,) = self.kept.calls
        return call

    def test_nothing_is_kept_before_the_reply(self) -> None:
        """Recording waits until the reply to the PBX has left."""
        self.ring()
        self.answer()
        for each in self.ended:
            self.call_log.ended(each)
        self.assertEqual(self.kept.calls, [])
        self.clock.advance(0.02)
        self.assertEqual(len(self.kept.calls), 1)

    def test_answered_call(self) -> None:
        """Account, device, steps, push and answer, by the wall clock of the call's start."""
        self.with_provider(Accepted(provider_id="id-1"))
        self.ring()
        self.advance(0.8)
        self.answer()
        call = self.the_call()
        self.assertEqual((call.sip_user_id, call.call_id), ("123456789", "call-1"))
        self.assertEqual((call.app, call.platform), (PHONE.app, "android"))
        self.assertEqual((call.start, call.outcome), (START, "answered"))
        self.assertEqual(call.token, fingerprint(PHONE.token))
        names = [name for name, _ in call.step_times]
        self.assertEqual(names, ["device", "sent", "push", "answer"])
        (push,) = call.pushes
        self.assertEqual((push.attempt, push.time, push.verdict), (1, START, "accepted"))
        self.assertEqual((push.provider_id, push.uncertain), ("id-1", False))
        assert call.answer is not None
        self.assertAlmostEqual(call.answer.time, START + 0.8, places=3)
        self.assertEqual((call.wait_ms, call.hindrance), (4000.0, Hindrance.NONE))
        self.assertEqual(self.kept.answers, [])

    def test_push_whose_result_comes_after_the_call(self) -> None:
        """The call is kept with it, not before."""
        result: Deferred[PushResult] = Deferred()
        self.with_provider(result)
        self.ring()
        self.answer()
        self.record()
        self.assertEqual(self.kept.calls, [])
        self.advance(0.5)
        result.callback(Accepted(provider_id="late"))
        self.assertEqual(self.the_call().pushes[0].provider_id, "late")

    def test_pushes_that_failed(self) -> None:
        """Each try with its reason."""
        self.with_provider(Temporary("503"), Accepted())
        self.ring()
        self.advance(4.1)
        pushes = self.the_call().pushes
        self.assertEqual([(p.attempt, p.reason) for p in pushes[:2]], [(1, "503"), (1, "")])

    def test_push_that_was_not_sent_any_more(self) -> None:
        """It waited for a connection when the phone answered."""
        result: Deferred[PushResult] = Deferred()
        self.with_provider(Accepted(), result)
        self.ring()
        self.advance(1.05)
        self.answer()
        result.callback(Temporary(UNWANTED))
        self.assertEqual([push.attempt for push in self.the_call().pushes], [1])

    def test_answers_that_decided_nothing(self) -> None:
        """A refusal of a repeat and a repeated answer are kept beside the call."""
        self.ring()
        self.advance(1.05)
        self.answer(available=False)
        self.answer()
        self.answer()
        call = self.the_call()
        assert call.answer is not None
        self.assertTrue(call.answer.available)
        kept = [(answer.available, answer.decided) for _, _, answer in self.kept.answers]
        self.assertEqual(kept, [(False, False), (True, False)])

    def test_pbx(self) -> None:
        """The name of its section is kept, also of a call that is refused."""
        named = attrs.evolve(CALL, pbx="office")
        self.ring(named)
        self.answer()
        self.assertEqual(self.the_call().pbx, "office")
        self.ringing.draining = True
        self.ring(attrs.evolve(named, call_id="call-2"))
        self.record()
        self.assertEqual(self.kept.calls[1].pbx, "office")

    def test_late_answer(self) -> None:
        """With its account and how late it was."""
        self.ring()
        self.advance(4.5)
        self.assertFalse(self.answer())
        self.record()
        ((_, account, answer),) = self.kept.answers
        self.assertEqual(account, "123456789")
        assert answer.late_milliseconds is not None
        self.assertApproximates(answer.late_milliseconds, 500, 20)

    def test_hung_up_and_repeated(self) -> None:
        """A repeat is noted, and the call is kept once, when its last request has gone."""
        first, second = self.ring(), self.ring()
        for each in (first, second):
            each.addErrback(lambda _: None)
            each.cancel()
        self.assertEqual(self.the_call().outcome, "hung-up")
        ((_, account, time),) = self.kept.joined
        self.assertEqual((account, time), ("123456789", START + 1000))

    def test_hindrances(self) -> None:
        """Why no device was woken."""
        self.devices.put(attrs.evolve(PHONE, dnd=True))
        unknown = attrs.evolve(CALL, sip_user_id=1, call_id="call-2")
        for each in (CALL, unknown):
            self.assertIs(self.successResultOf(self.ring(each)), Outcome.NO_DEVICE)
        self.routes.route = None
        self.devices.put(PHONE)
        self.assertIs(self.successResultOf(self.ring()), Outcome.PUSH_FAILED)
        self.record()
        self.assertEqual(
            [(call.hindrance, call.platform) for call in self.kept.calls],
            [
                (Hindrance.DO_NOT_DISTURB, "android"),
                (Hindrance.NOT_REGISTERED, "none"),
                (Hindrance.NO_SECTION, "android"),
            ],
        )

    def test_refused_call(self) -> None:
        """A draining daemon keeps what it refuses; overload is only counted."""
        self.ringing.draining = True
        self.assertIs(self.successResultOf(self.ring()), Outcome.DRAINING)
        self.ringing.draining, self.admission.late = False, True
        self.assertIs(self.successResultOf(self.ring()), Outcome.OVERLOADED)
        call = self.the_call()
        self.assertEqual((call.outcome, call.platform), ("draining", "none"))

    def test_suspect_token(self) -> None:
        """An event of the device, by its fingerprint."""
        self.devices.put(IPHONE)
        self.with_provider(TokenSuspect("BadDeviceToken"))
        self.successResultOf(self.ring())
        (event,) = self.kept.events
        self.assertEqual((event.event, event.reason), ("token-suspect", "BadDeviceToken"))
        self.assertEqual(event.token, fingerprint(IPHONE.token))

    def test_history_that_is_off(self) -> None:
        """Nothing is handed over."""
        self.kept.recording = False
        for _ in range(2):
            self.ring()
        self.answer()
        self.record()
        self.assertEqual((self.kept.calls, self.kept.answers, self.kept.joined), ([], [], []))
