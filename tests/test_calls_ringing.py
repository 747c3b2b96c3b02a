"""How a call rings: pushes, results and outcomes, on a clock that the test advances."""

from __future__ import annotations

from typing import TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.calls.ringing import Ended, EndedCall, EndedRequest, Ringing, RingingSettings
from middlewared.calls.trace import Trace
from middlewared.calls.waking import Waker, WakingSettings
from middlewared.errors import DatabaseDown
from middlewared.history.interface import Recorder
from middlewared.model import (
    Answer,
    AnswerResult,
    Call,
    Device,
    DeviceKind,
    IncomingCall,
    LateAnswer,
    Outcome,
    Platform,
    Settlement,
)
from middlewared.push.interface import (
    Accepted,
    CallPush,
    ConfigFault,
    Push,
    PushProvider,
    PushResult,
    Rejected,
    Resend,
    Route,
    Temporary,
    TokenDead,
    TokenSuspect,
    Uncertain,
)
from middlewared.rendezvous.held_calls import LocalWaiter
from middlewared.rendezvous.memory import MemoryRendezvous, fresh_key
from tests.memory_devices import MemoryDevices
from tests.recording import NotRecording

START = 1_700_000_000.0
PHONE = Device(123456789, Platform.ANDROID, "com.example.app", "token-1", registered_at=START)
IPHONE = attrs.evolve(PHONE, platform=Platform.APNS, push_profile="once")
KIND = DeviceKind(PHONE.app, PHONE.platform)
CALL = IncomingCall(123456789, "0123456789", "Alice", "call-1")


Verdict: TypeAlias = PushResult | Deferred[PushResult] | Exception


class ScriptedProvider(PushProvider):
    """Gives each push the next result of the script; a Deferred in it keeps one back."""

    def __init__(self, *script: Verdict) -> None:
        self.script: list[Verdict] = list(script)
        self.pushes: list[CallPush] = []

    async def send(self, push: Push) -> PushResult:
        assert isinstance(push, CallPush)
        assert push.wanted()
        self.pushes.append(push)
        verdict = self.script.pop(0) if self.script else Accepted()
        if isinstance(verdict, Exception):
            raise verdict
        return await verdict if isinstance(verdict, Deferred) else verdict


@attrs.define
class OneRoute:
    """The route of every app."""

    route: Route | None

    def find(self, app: str, platform: Platform) -> Route | None:
        return self.route


@attrs.define
class StandInAdmission:
    """Lets the test set how late the event loop is."""

    late: bool = False
    refused: int = 0

    def admits(self) -> bool:
        return not self.late

    def taken(self) -> None:
        pass

    def refuse(self) -> None:
        self.refused += 1


class RingingCase(SynchronousTestCase):
    """Calls of 4 s with a push every second."""

    recorder: Recorder = NotRecording()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.devices = MemoryDevices(PHONE)
        self.background = Background()
        self.ended: list[Ended] = []
        self.rendezvous = MemoryRendezvous(clock=self.clock, late=self.ended.append)
        self.admission = StandInAdmission()
        self.with_provider()

    def with_provider(self, *script: Verdict, resend: Resend = Resend.AUTO) -> None:
        self.provider = ScriptedProvider(*script)
        self.routes = OneRoute(Route(provider=self.provider, resend=resend))
        self.ringing = Ringing(
            clock=self.clock,
            wall=self.clock.seconds,
            rendezvous=self.rendezvous,
            waker=Waker(
                clock=self.clock,
                registry=self.devices,
                rendezvous=self.rendezvous,
                routes=self.routes,
                background=self.background,
                recorder=self.recorder,
                overloaded=lambda: self.admission.late,
            ),
            admission=self.admission,
            ended=self.ended.append,
            new_key=fresh_key,
            settings=RingingSettings(
                wait_s=4.0,
                max_waiting=3,
                waking=WakingSettings(
                    "http://127.0.0.1/api/call-response/", 1.0, silent_calls=0, silent_wait_s=1.5
                ),
            ),
        )

    def ring(self, call: IncomingCall = CALL) -> Deferred[Outcome]:
        return Deferred.fromCoroutine(self.ringing.ring(call, Trace(self.clock.seconds)))

    def answer(self, available: bool = True, key: str | None = None) -> bool:
        key = key or self.provider.pushes[0].call.unique_key
        answer = Answer(available, START, self.clock.seconds())
        answering = Deferred.fromCoroutine(self.ringing.answer(key, answer))
        return self.successResultOf(answering) is AnswerResult.ACCEPTED

    def advance(self, seconds: float) -> None:
        """Move the clock in small steps, so that timers set on the way are met."""
        self.clock.pump([0.01] * round(seconds * 100))

    def ended_calls(self) -> list[EndedCall]:
        """The calls that have ended."""
        return [ended for ended in self.ended if isinstance(ended, EndedCall)]

    def ended_requests(self) -> list[tuple[bool, Platform | None, Outcome | None]]:
        """Of each request that has ended: whether it joined, the platform and the outcome."""
        return [
            (
                ended.joined,
                ended.kind.platform if ended.kind else None,
                None if ended.settlement is None else ended.settlement.outcome,
            )
            for ended in self.ended
            if isinstance(ended, EndedRequest)
        ]

    def attempts(self) -> list[int]:
        """The attempt of each push so far."""
        return [push.attempt for push in self.provider.pushes]


class RingingTests(RingingCase):
    """One call at a time."""

    def test_answer_is_the_outcome(self) -> None:
        """The phone is available: answered, in the same turn."""
        held = self.ring()
        self.assertNoResult(held)
        self.assertTrue(self.answer())
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)

    def test_busy_phone(self) -> None:
        """The phone is not available: unavailable."""
        held = self.ring()
        self.answer(available=False)
        self.assertIs(self.successResultOf(held), Outcome.UNAVAILABLE)

    def test_refusal_of_a_repeat_decides_nothing(self) -> None:
        """A phone that is handling the first push refuses the second, and then accepts."""
        held = self.ring()
        self.advance(1.05)
        self.assertEqual(self.attempts(), [1, 2])
        self.assertTrue(self.answer(available=False))
        self.assertNoResult(held)
        self.assertTrue(self.answer())
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)

    def test_as_many_refusals_as_pushes_decide(self) -> None:
        """A busy phone refuses each push."""
        held = self.ring()
        self.advance(1.05)
        self.answer(available=False)
        self.assertNoResult(held)
        self.answer(available=False)
        self.assertIs(self.successResultOf(held), Outcome.UNAVAILABLE)

    def test_a_push_that_the_provider_refused_needs_no_refusal(self) -> None:
        """It reached no phone; while in flight it may still do so."""
        verdict: Deferred[PushResult] = Deferred()
        self.with_provider(Accepted(), verdict)
        held = self.ring()
        self.advance(1.05)
        self.answer(available=False)
        self.assertNoResult(held)
        verdict.callback(Temporary("ServiceUnavailable"))
        self.assertIs(self.successResultOf(held), Outcome.UNAVAILABLE)

    def test_refusals_of_a_call_that_was_taken_over(self) -> None:
        """As many as pushes were due settle it: the daemon that died had counted those."""
        join = self.rendezvous.join

        async def join_after_a_push(call: Call) -> LocalWaiter:
            waiter = await join(call)
            waiter.take_over(pushes=1)
            return waiter

        self.patch(self.rendezvous, "join", join_after_a_push)
        for device, attempts in ((IPHONE, []), (PHONE, [2])):
            self.devices.put(device)
            key = fresh_key()
            held = self.ring(attrs.evolve(CALL, call_id=key))
            self.advance(0.5 if device is IPHONE else 1.05)
            self.assertEqual(self.attempts(), attempts)
            for _ in attempts:
                self.answer(available=False, key=key)
                self.assertNoResult(held)
            self.answer(available=False, key=key)
            self.assertIs(self.successResultOf(held), Outcome.UNAVAILABLE)

    def test_uncertain_push_to_a_once_device_is_repeated_late(self) -> None:
        """1.5 s after it was sent: a phone that got it has answered by then."""
        self.devices.put(IPHONE)
        self.with_provider(Uncertain("connection lost", sent_at=START))
        held = self.ring()
        self.advance(1.45)
        self.assertEqual(self.attempts(), [1])
        self.advance(0.1)
        self.assertEqual(self.attempts(), [1, 1])
        self.answer(available=False)  # to the second, while the first is being handled
        self.assertNoResult(held)
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)

    def test_loss_that_is_noticed_late_is_repaired_at_once(self) -> None:
        """When a silent connection is noticed after 2 s, the 1.5 s are already over."""
        self.devices.put(IPHONE)
        verdict: Deferred[PushResult] = Deferred()
        self.with_provider(verdict)
        self.ring()
        self.advance(2.0)
        verdict.callback(Uncertain("silent", sent_at=START))
        self.assertEqual(self.attempts(), [1, 1])

    def test_uncertain_push_to_another_device_is_repeated_soon(self) -> None:
        """After a back-off, as the same attempt."""
        self.with_provider(Uncertain("connection lost", sent_at=START))
        self.ring()
        self.advance(0.5)
        self.assertEqual(self.attempts(), [1, 1])

    def test_uncertain_push_outlives_a_final_refusal_of_the_next(self) -> None:
        """It may have reached the phone, whose answer settles the call."""
        self.with_provider(Uncertain("reset", sent_at=START), ConfigFault("BadTopic"))
        held = self.ring()
        self.advance(0.5)
        self.assertNoResult(held)
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)

    def test_uncertain_push_to_a_dead_token_rings_no_phone(self) -> None:
        """A dead token ends the call, whatever happened to the first push."""
        self.with_provider(Uncertain("reset", sent_at=START), TokenDead("Unregistered"))
        held = self.ring()
        self.advance(0.5)
        self.assertIs(self.successResultOf(held), Outcome.TOKEN_DEAD)

    def test_late_answer_is_reported(self) -> None:
        """With the app and the delay, for a minute after the time-out."""
        self.ring()
        self.advance(5.0)
        self.assertFalse(self.answer())
        (late,) = [each for each in self.ended if isinstance(each, LateAnswer)]
        self.assertEqual((late.kind, late.available), (KIND, True))
        self.assertAlmostEqual(late.late_s, 1.0, places=1)
        self.advance(60.0)
        self.assertFalse(self.answer())
        self.assertEqual(sum(isinstance(each, LateAnswer) for each in self.ended), 1)

    def test_device_that_never_answers_gets_less_time(self) -> None:
        """One push and silent_wait_ms; an answer in that time counts."""
        waking = WakingSettings("http://127.0.0.1/", 1.0, silent_calls=3, silent_wait_s=1.5)
        self.ringing.settings = attrs.evolve(self.ringing.settings, waking=waking)
        self.devices.put(attrs.evolve(PHONE, silent_streak=3))
        held = self.ring()
        self.advance(1.4)
        self.assertNoResult(held)
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)
        second = self.ring(attrs.evolve(CALL, call_id="call-2"))
        self.advance(1.55)
        self.assertIs(self.successResultOf(second), Outcome.TIMEOUT)
        self.assertEqual(self.attempts(), [1, 1])
        self.assertFalse(self.answer(key=self.provider.pushes[1].call.unique_key))
        self.assertIsInstance(self.ended[-1], LateAnswer)

    def test_device_that_answered_lately_has_all_the_time(self) -> None:
        """Its streak is below silent_calls."""
        waking = WakingSettings("http://127.0.0.1/", 1.0, silent_calls=3, silent_wait_s=1.5)
        self.ringing.settings = attrs.evolve(self.ringing.settings, waking=waking)
        self.devices.put(attrs.evolve(PHONE, silent_streak=2))
        held = self.ring()
        self.advance(3.9)
        self.assertNoResult(held)
        self.assertEqual(self.attempts(), [1, 2, 3])

    def test_silent_phone(self) -> None:
        """No answer until the wait is over: timeout, and a later answer is unknown."""
        held = self.ring()
        self.advance(3.9)
        self.assertNoResult(held)
        self.advance(0.2)
        self.assertIs(self.successResultOf(held), Outcome.TIMEOUT)
        self.assertFalse(self.answer())

    def test_pushes_at_0_1_and_2_seconds(self) -> None:
        """4 s of wait and 1 s of interval give three pushes, counted from 1."""
        held = self.ring()
        self.assertEqual(self.attempts(), [1])
        self.advance(1.05)
        self.assertEqual(self.attempts(), [1, 2])
        self.advance(1.0)
        self.assertEqual(self.attempts(), [1, 2, 3])
        self.advance(2.0)
        self.assertEqual(self.attempts(), [1, 2, 3])
        self.assertIs(self.successResultOf(held), Outcome.TIMEOUT)

    def test_slow_look_up_is_no_reason_for_two_pushes_at_once(self) -> None:
        """Times that passed meanwhile are one push; the rest keep theirs."""
        self.devices.gate = Deferred()
        self.ring()
        self.advance(1.2)
        self.devices.gate.callback(None)
        self.assertEqual(self.attempts(), [1])
        self.advance(0.85)
        self.assertEqual(self.attempts(), [1, 2])
        self.advance(1.9)
        self.assertEqual(self.attempts(), [1, 2])

    def test_hang_up_during_the_look_up(self) -> None:
        """Nothing is pushed for a call that is over."""
        self.devices.gate = Deferred()
        held = self.ring()
        held.cancel()
        self.failureResultOf(held, CancelledError)
        self.devices.gate.callback(None)
        self.assertEqual(self.attempts(), [])

    def test_no_push_after_the_answer(self) -> None:
        """The phone is awake: no further push."""
        self.ring()
        self.answer()
        self.advance(4)
        self.assertEqual(self.attempts(), [1])

    def test_once_profile_gets_one_push(self) -> None:
        """iOS 13 shows each push as a call, so push_profile once means one."""
        self.devices.put(IPHONE)
        self.ring()
        self.advance(4)
        self.assertEqual(self.attempts(), [1])

    def test_resend_always_overrides_the_profile(self) -> None:
        """resend = always pushes again whatever the device asked for."""
        self.devices.put(IPHONE)
        self.with_provider(resend=Resend.ALWAYS)
        self.ring()
        self.advance(4)
        self.assertEqual(self.attempts(), [1, 2, 3])

    def test_resend_never(self) -> None:
        """resend = never gives one push to every device."""
        self.with_provider(resend=Resend.NEVER)
        self.ring()
        self.advance(4)
        self.assertEqual(self.attempts(), [1])

    def test_temporary_fault_is_retried_as_the_same_attempt(self) -> None:
        """A 503 costs a back-off, not an attempt; once-devices are retried too."""
        self.devices.put(IPHONE)
        self.with_provider(Temporary("ServiceUnavailable"), Temporary("InternalServerError"))
        held = self.ring()
        self.advance(1.5)
        self.assertEqual(self.attempts(), [1, 1, 1])
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)

    def test_retry_after_is_honoured(self) -> None:
        """While Retry-After lasts neither a retry nor another attempt goes out."""
        self.with_provider(Temporary("UNAVAILABLE", retry_after_s=1.5))
        self.ring()
        self.advance(1.45)
        self.assertEqual(self.attempts(), [1])
        self.advance(0.1)
        self.assertEqual(self.attempts(), [1, 1])
        self.advance(0.5)
        self.assertEqual(self.attempts(), [1, 1, 2])

    def test_only_temporary_faults_are_a_timeout(self) -> None:
        """A provider in trouble until the end: timeout, not push-failed."""
        self.with_provider(*[Temporary("down")] * 100)
        held = self.ring()
        self.advance(4.1)
        self.assertIs(self.successResultOf(held), Outcome.TIMEOUT)
        self.assertLess(len(self.provider.pushes), 10)

    def test_at_once_is_granted_once(self) -> None:
        """A provider that always asks for a retry at once gets only one."""
        self.with_provider(*[Temporary("reset", retry_after_s=0)] * 100)
        self.ring()
        self.advance(4.1)
        self.assertLess(len(self.provider.pushes), 12)

    def test_slow_verdict_does_not_hold_up_the_next_attempt(self) -> None:
        """A slow provider still gets the next push; the older one is unwanted."""
        slow: Deferred[PushResult] = Deferred()
        self.with_provider(slow)
        held = self.ring()
        self.advance(1.05)
        self.assertEqual(self.attempts(), [1, 2])
        self.assertFalse(self.provider.pushes[0].wanted())
        self.assertTrue(self.provider.pushes[1].wanted())
        slow.callback(Temporary("late"))
        self.advance(0.5)
        self.assertEqual(self.attempts(), [1, 2])
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)
        self.assertFalse(self.provider.pushes[1].wanted())

    def test_dead_token_is_a_fast_no_and_removes_the_device(self) -> None:
        """token-dead at once, and the next call finds no device."""
        self.with_provider(TokenDead("Unregistered"))
        self.assertIs(self.successResultOf(self.ring()), Outcome.TOKEN_DEAD)
        self.assertIs(self.successResultOf(self.ring()), Outcome.NO_DEVICE)

    def test_410_older_than_the_registration_keeps_the_device(self) -> None:
        """The token was dead before the app registered it again: the device stays."""
        self.with_provider(TokenDead("Unregistered", since=START - 60))
        self.assertIs(self.successResultOf(self.ring()), Outcome.TOKEN_DEAD)
        self.assertIsNotNone(self.devices.get(PHONE.sip_user_id))

    def test_final_refusals_are_push_failed_and_keep_the_device(self) -> None:
        """Suspect token, configuration and unknown refusals end the call at once."""
        for verdict in (
            TokenSuspect("BadDeviceToken"),
            ConfigFault("BadTopic"),
            Rejected("HTTP 418"),
        ):
            self.with_provider(verdict)
            self.assertIs(self.successResultOf(self.ring()), Outcome.PUSH_FAILED)
            self.assertEqual(self.devices.get(PHONE.sip_user_id), PHONE)

    def test_call_waits_on_when_a_later_push_fails(self) -> None:
        """Once a push was accepted only the phone or the clock decides; the device goes."""
        self.with_provider(Accepted(), TokenDead("Unregistered"))
        held = self.ring()
        self.advance(2.5)
        self.assertEqual(self.attempts(), [1, 2])
        self.assertIsNone(self.devices.get(PHONE.sip_user_id))
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)

    def test_canonical_token_is_stored_and_used(self) -> None:
        """The provider's canonical token replaces the stored one, for the next push too."""
        self.with_provider(Accepted(canonical_token="token-2"))
        self.ring()
        self.advance(1.05)
        self.assertEqual(self.provider.pushes[1].device.token, "token-2")
        stored = self.devices.get(PHONE.sip_user_id)
        self.assertEqual(stored and stored.token, "token-2")

    def test_other_environment_is_stored_and_used(self) -> None:
        """The environment that took the push is kept for the device."""
        self.devices.put(attrs.evolve(PHONE, platform=Platform.APNS))
        self.with_provider(Accepted(other_environment=True))
        self.ring()
        self.advance(1.05)
        self.assertTrue(self.provider.pushes[1].device.sandbox)
        stored = self.devices.get(PHONE.sip_user_id)
        self.assertTrue(stored and stored.sandbox)

    def test_two_slow_pushes_find_the_other_environment(self) -> None:
        """Each result is about the device as it was pushed to: the second changes nothing."""
        self.devices.put(attrs.evolve(PHONE, platform=Platform.APNS))
        slow: list[Deferred[PushResult]] = [Deferred(), Deferred()]
        self.with_provider(*slow)
        self.ring()
        self.advance(1.05)
        for result in slow:
            result.callback(Accepted(other_environment=True))
        self.advance(1.0)
        self.assertTrue(self.provider.pushes[2].device.sandbox)
        stored = self.devices.get(PHONE.sip_user_id)
        self.assertTrue(stored and stored.sandbox)

    def test_verdict_after_the_answer_still_updates_the_device(self) -> None:
        """A phone may answer before the result of its push arrives; the result is still stored."""
        late: Deferred[PushResult] = Deferred()
        self.with_provider(late)
        held = self.ring()
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)
        late.callback(Accepted(canonical_token="token-2"))
        stored = self.devices.get(PHONE.sip_user_id)
        self.assertEqual(stored and stored.token, "token-2")

    def test_no_one_registered(self) -> None:
        """An account without a device is no-device at once."""
        other = attrs.evolve(CALL, sip_user_id=987654321)
        self.assertIs(self.successResultOf(self.ring(other)), Outcome.NO_DEVICE)

    def test_do_not_disturb(self) -> None:
        """A device with dnd is registered and not woken."""
        self.devices.put(attrs.evolve(PHONE, dnd=True))
        self.assertIs(self.successResultOf(self.ring()), Outcome.NO_DEVICE)
        self.assertEqual(self.provider.pushes, [])

    def test_app_without_configuration(self) -> None:
        """Nothing can be sent: push-failed."""
        self.routes.route = None
        self.assertIs(self.successResultOf(self.ring()), Outcome.PUSH_FAILED)

    def test_database_down(self) -> None:
        """The device cannot be looked up: service-down."""
        self.devices.failure = DatabaseDown("gone")
        self.assertIs(self.successResultOf(self.ring()), Outcome.SERVICE_DOWN)

    def test_unforeseen_failures_end_the_call_at_once(self) -> None:
        """A bug in the registry or in a provider is logged and ends the call as service-down."""
        self.devices.failure = ZeroDivisionError()
        self.assertIs(self.successResultOf(self.ring()), Outcome.SERVICE_DOWN)
        self.devices.failure = None
        self.with_provider(ZeroDivisionError())
        self.assertIs(self.successResultOf(self.ring()), Outcome.SERVICE_DOWN)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_unforeseen_failure_after_an_accepted_push(self) -> None:
        """Once a push was accepted only the phone or the clock decides, bugs or not."""
        self.with_provider(Accepted(), ZeroDivisionError())
        held = self.ring()
        self.advance(2.5)
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_late_verdict_leaves_the_next_call_alone(self) -> None:
        """The PBX hangs up and calls again with its UUID: the first push's result is ignored."""
        call = attrs.evolve(CALL, call_id="0f8fad5bd9cb469fa16570867728950e")
        late: Deferred[PushResult] = Deferred()
        self.with_provider(late)
        first = self.ring(call)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        second = self.ring(call)
        late.callback(ConfigFault("BadTopic"))
        self.assertNoResult(second)
        self.answer()
        self.assertIs(self.successResultOf(second), Outcome.ANSWERED)

    def test_uuid_call_id_is_the_key(self) -> None:
        """A call_id that iOS can make a UUID of serves as unique_key, in its own form."""
        for call_id in (
            "0f8fad5bd9cb469fa16570867728950e",
            "0F8FAD5B-D9CB-469F-A165-70867728950E",
        ):
            self.with_provider()
            self.ring(attrs.evolve(CALL, call_id=call_id))
            self.assertEqual(self.provider.pushes[0].call.unique_key, call_id)

    def test_other_call_ids_get_a_random_key(self) -> None:
        """Anyone who guesses a key could answer: other call ids are not used as one."""
        for call_id in ("", "call-1", "{0f8fad5bd9cb469fa16570867728950e}", "0" * 31):
            self.with_provider()
            held = self.ring(attrs.evolve(CALL, call_id=call_id))
            self.assertRegex(self.provider.pushes[0].call.unique_key, r"\A[0-9a-f]{32}\Z")
            self.assertNotEqual(self.provider.pushes[0].call.unique_key, call_id)
            self.answer()
            self.successResultOf(held)

    def test_repeat_joins_without_a_second_push(self) -> None:
        """The PBX repeats itself: one push, and both requests are answered."""
        first, second = self.ring(), self.ring()
        self.assertEqual(self.attempts(), [1])
        self.answer()
        self.assertIs(self.successResultOf(first), Outcome.ANSWERED)
        self.assertIs(self.successResultOf(second), Outcome.ANSWERED)
        self.assertIs(self.successResultOf(self.ring()), Outcome.ANSWERED)
        self.assertEqual(self.attempts(), [1])

    def test_pbx_hangs_up(self) -> None:
        """The PBX closes its connection: no more pushes, and the answer is unknown."""
        held = self.ring()
        held.cancel()
        self.failureResultOf(held, CancelledError)
        self.advance(3)
        self.assertEqual(self.attempts(), [1])
        self.assertFalse(self.answer())

    def test_joined_call_outlives_its_first_connection(self) -> None:
        """While a repeat waits, the pushes go on and the answer is passed on."""
        first, second = self.ring(), self.ring()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.advance(1.05)
        self.assertEqual(self.attempts(), [1, 2])
        self.answer()
        self.assertIs(self.successResultOf(second), Outcome.ANSWERED)

    def test_above_max_waiting(self) -> None:
        """A call above the bound is refused at once, those waiting stay; a repeat joins."""
        held = [self.ring()]
        for number in range(2):
            self.devices.put(attrs.evolve(PHONE, sip_user_id=200000000 + number))
            held.append(self.ring(IncomingCall(200000000 + number, "1")))
        new = attrs.evolve(CALL, call_id="call-2")
        self.assertIs(self.successResultOf(self.ring(new)), Outcome.OVERLOADED)
        self.assertEqual(self.admission.refused, 1)
        held.append(self.ring())
        for waiting in held:
            self.assertNoResult(waiting)

    def test_overload_refuses_new_calls_only(self) -> None:
        """While the event loop is late a new call is refused, a repeat of a held one joins."""
        held = self.ring()
        self.admission.late = True
        new = attrs.evolve(CALL, call_id="call-2")
        self.assertIs(self.successResultOf(self.ring(new)), Outcome.OVERLOADED)
        self.assertTrue(self.ringing.refuse_if_new(new))
        self.assertFalse(self.ringing.refuse_if_new(CALL))
        repeat = self.ring()
        self.answer()
        for each in (held, repeat):
            self.assertIs(self.successResultOf(each), Outcome.ANSWERED)
        self.assertEqual((self.admission.refused, self.attempts()), (2, [1]))

    def test_overload_repeats_no_push(self) -> None:
        """The phone's answer may lie unread in a socket; a later attempt goes out again."""
        self.ring()
        self.admission.late = True
        self.advance(1.0)
        self.assertEqual(self.attempts(), [1])
        self.admission.late = False
        self.advance(1.0)
        self.assertEqual(self.attempts(), [1, 2])

    def test_draining_refuses_new_calls_only(self) -> None:
        """While draining a new call is refused; a held one and its repeat are still answered."""
        held = self.ring()
        self.ringing.draining = True
        new = attrs.evolve(CALL, call_id="call-2")
        self.assertIs(self.successResultOf(self.ring(new)), Outcome.DRAINING)
        repeat = self.ring()
        self.assertNoResult(repeat)
        self.answer()
        self.assertIs(self.successResultOf(held), Outcome.ANSWERED)

    def test_steps_are_recorded(self) -> None:
        """Device found, push sent, its result, and the answer, each with its time."""
        verdict: Deferred[PushResult] = Deferred()
        self.with_provider(verdict)
        held = self.ring()
        self.advance(0.5)
        verdict.callback(Accepted())
        self.advance(0.25)
        self.answer()
        self.successResultOf(held)
        ended = self.ended[0]
        assert isinstance(ended, EndedRequest)
        steps = [(step.name, round(step.at - START, 3)) for step in ended.trace.steps]
        self.assertEqual(
            steps,
            [("received", 0.0), ("device", 0.0), ("sent", 0.0), ("push", 0.5), ("answer", 0.75)],
        )
        self.assertIn("push;dur=500.00;desc=accepted", ended.trace.server_timing())

    def test_why_there_is_no_device(self) -> None:
        """Both are no-device to the PBX; the steps differ."""
        other = attrs.evolve(CALL, sip_user_id=987654321)
        self.assertIs(self.successResultOf(self.ring(other)), Outcome.NO_DEVICE)
        self.devices.put(attrs.evolve(PHONE, dnd=True))
        self.assertIs(self.successResultOf(self.ring()), Outcome.NO_DEVICE)
        labels = [
            each.trace.steps[1].label for each in self.ended if isinstance(each, EndedRequest)
        ]
        self.assertEqual(labels, ["device(not-registered)", "device(dnd)"])

    def test_the_rest_of_a_wait_has_a_name(self) -> None:
        """A timeout is the phone's time, not that of the reply."""
        held = self.ring()
        self.advance(4.1)
        self.assertIs(self.successResultOf(held), Outcome.TIMEOUT)
        (request,) = [each for each in self.ended if isinstance(each, EndedRequest)]
        self.assertEqual(request.trace.steps[-1].name, "timeout")
        self.assertGreater(request.trace.durations_ms()[-1][1], 1000)

    def test_joined_call_is_reported_once(self) -> None:
        """Two requests, one call, each with the platform of the device."""
        first, second = self.ring(), self.ring()
        self.advance(0.5)
        self.answer()
        self.successResultOf(first)
        self.successResultOf(second)
        (call,) = self.ended_calls()
        self.assertEqual(call.settlement and call.settlement.outcome, Outcome.ANSWERED)
        self.assertEqual((call.kind, call.accepted_at), (KIND, START))
        self.assertCountEqual(
            self.ended_requests(),
            [(joined, Platform.ANDROID, Outcome.ANSWERED) for joined in (False, True)],
        )

    def test_joined_call_is_reported_once_though_its_first_connection_hung_up(self) -> None:
        """The call counts with its outcome, not as hung up, and not twice."""
        first, second = self.ring(), self.ring()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.ended_calls(), [])
        self.answer()
        self.successResultOf(second)
        (call,) = self.ended_calls()
        self.assertEqual(call.settlement and call.settlement.outcome, Outcome.ANSWERED)
        self.assertEqual(
            self.ended_requests(),
            [(False, Platform.ANDROID, None), (True, Platform.ANDROID, Outcome.ANSWERED)],
        )

    def test_hung_up_request_knows_whether_its_call_waits(self) -> None:
        """Its key may be shown only when the last connection has closed."""
        first, second = self.ring(), self.ring()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        (request,) = [each for each in self.ended if isinstance(each, EndedRequest)]
        self.assertTrue(request.waits())
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertFalse(request.waits())

    def test_repeat_of_an_answered_call_is_no_further_call(self) -> None:
        """It is reported as a request that joined."""
        self.ring()
        self.answer()
        self.successResultOf(self.ring())
        self.assertEqual(len(self.ended_calls()), 1)
        self.assertEqual(self.ended_requests()[-1], (True, Platform.ANDROID, Outcome.ANSWERED))

    def test_hung_up_call_is_reported_with_its_platform(self) -> None:
        """All connections closed: a call without an outcome, to a device that was found."""
        held = self.ring()
        held.cancel()
        self.failureResultOf(held, CancelledError)
        (call,) = self.ended_calls()
        self.assertEqual((call.kind, call.settlement), (KIND, None))

    def test_calls_that_are_not_taken_are_reported(self) -> None:
        """Draining: the request and the call, without a platform."""
        self.ringing.draining = True
        self.ring()
        self.assertEqual(self.ended_requests(), [(False, None, Outcome.DRAINING)])
        found = [(call.kind, call.settlement) for call in self.ended_calls()]
        self.assertEqual(found, [(None, Settlement(Outcome.DRAINING))])

    def test_wakeup_counts_from_the_push_that_was_accepted(self) -> None:
        """A push that met a temporary fault did not wake the phone."""
        self.with_provider(Temporary("down", retry_after_s=0.5))
        self.ring()
        self.advance(0.7)
        self.answer()
        (call,) = self.ended_calls()
        self.assertAlmostEqual((call.accepted_at or 0.0) - START, 0.5, places=1)

    def test_idle_when_the_last_request_has_ended(self) -> None:
        """A drain waits for each request, joined ones too."""
        self.successResultOf(self.ringing.idle())
        self.ring()
        second = self.ring(attrs.evolve(CALL, call_id="call-2"))
        idle = self.ringing.idle()
        self.answer()
        self.assertNoResult(idle)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.successResultOf(idle)
