"""No call is lost to its own pushes: whole calls with phones that refuse repeated pushes."""

from __future__ import annotations

from functools import partial

import attrs

from middlewared.simulator.apple.faults import GoAway, Interim, ResetStream, Step
from middlewared.simulator.generations import ANDROID_6, FLUTTER_IOS, IOS_6, Effect, Generation
from middlewared.simulator.phone import Phone, Reaction
from middlewared.simulator.scripts import Delay, Deliver, ResetConnection, Stall
from tests.pushing import SILENT, SLOW, PushingTestCase, data

INTERNAL_ERROR = 2


@attrs.frozen
class Case:
    """A fault at the first push to Apple; the phone; how many pushes Apple gets."""

    name: str
    steps: tuple[Step, ...]
    generation: Generation = FLUTTER_IOS
    delay_s: float = 0.8
    pushes: int = 1


class ApplePushTests(PushingTestCase):
    """Pushes to Apple; the cases run concurrently on separate connections."""

    async def all_answered(self, *cases: Case) -> None:
        """Every call is answered, and Apple got as many pushes as expected."""
        apples = [await self.apple(case.name) for case in cases]
        await self.start()
        phones = []
        for case, apple in zip(cases, apples, strict=True):
            reaction = Reaction(case.delay_s)
            phones.append(await self.phone(case.generation, apple, reaction))
            apple.server.scripts.for_next(1, *case.steps)
        outcomes = await self.outcomes(*map(self.call, phones))
        ended = {
            case.name: (outcome, apple.server.record.received_count, phone.complaints)
            for case, outcome, apple, phone in zip(cases, outcomes, apples, phones, strict=True)
        }
        self.assertEqual(ended, {case.name: ("answered", case.pushes, []) for case in cases})

    async def test_pushes_that_may_have_been_delivered(self) -> None:
        """
        A push without a status is not repeated while the phone may be waking up: the
        connection is closed after Apple has read it, its stream is reset, a GOAWAY covers it,
        Apple does not reply, or the connection falls silent.
        """
        lost = (Deliver(), ResetConnection())
        await self.all_answered(
            Case("closed", lost),
            Case("closed-6", lost, IOS_6),
            Case("reset", (Deliver(), ResetStream(INTERNAL_ERROR))),
            Case("goaway", (Deliver(), GoAway(), ResetConnection())),
            Case("mute", (Deliver(), Stall())),
            Case("silent", (Deliver(), Stall(acknowledge_pings=False))),
        )

    async def test_pushes_that_were_not_delivered(self) -> None:
        """
        An uncertain push to a "once" device is repeated after 1.5 s; if the phone got the
        first, its refusal of the second does not end the call.
        """
        await self.all_answered(
            Case("lost", (ResetConnection(),), delay_s=0.5, pushes=2),
            Case("lost-stream", (ResetStream(INTERNAL_ERROR),), delay_s=0.5, pushes=2),
            Case("slow", (Deliver(), ResetConnection()), delay_s=2.0, pushes=2),
            Case("slow-stream", (Deliver(), ResetStream(INTERNAL_ERROR)), delay_s=2.0, pushes=2),
        )

    async def test_status_that_was_read(self) -> None:
        """A 200 stands, whatever happens to its stream and connection."""
        status = (Deliver(), Interim(200))
        await self.all_answered(
            Case("stream", (*status, ResetStream(INTERNAL_ERROR)), delay_s=2.0),
            Case("connection", (*status, Delay(0.5), ResetConnection()), delay_s=2.0),
        )


class GooglePushTests(PushingTestCase):
    """Pushes to Google; native Android answers each repeat with false."""

    async def test_pushes_that_may_have_been_delivered(self) -> None:
        """Google closes the connection after each push it reads, or never replies."""
        await self.start()
        closed, silent = [await self.phone(ANDROID_6, reaction=SLOW) for _ in range(2)]
        self.google.scripts.for_token(closed.token, Deliver(), ResetConnection())
        self.google.scripts.for_token(silent.token, Deliver(), Stall())
        outcomes = await self.outcomes(self.call(closed), self.call(silent))
        self.assertEqual(outcomes, ["answered", "answered"])
        for phone in (closed, silent):
            self.assertEqual(phone.complaints, [])
            await self.until(partial(has_answered, phone, True))
            self.assertTrue(has_answered(phone, False), "no repeat was refused")

    async def test_token_server_away_after_a_rest(self) -> None:
        """
        The access token is renewed by a timer: a call after a rest needs no token server, and
        is answered while that is down.
        """
        self.google.oauth.expires_in_s = 4
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=Reaction())
        self.assertEqual(await self.outcomes(self.call(phone)), ["answered"])
        issued = self.google.oauth.issued_count
        await self.until(lambda: self.google.oauth.issued_count > issued)
        self.google.oauth_scripts.for_all(ResetConnection())
        self.assertEqual(await self.outcomes(self.call(phone)), ["answered"])


class RefusalTests(PushingTestCase):
    """Refusals settle a call only when there are as many as pushes."""

    calls = "roundtrip_wait_ms = 3000\nresend_interval_ms = 1000\n"  # pushes at 0 and 1 s

    async def test_refusals(self) -> None:
        """
        One refusal of two pushes does not settle the call, a later acceptance does, and so do
        two refusals; one refusal does if there was one push.
        """
        await self.start()
        native = await self.phone(ANDROID_6, reaction=SLOW)
        busy = await self.phone(ANDROID_6, reaction=Reaction(0.2, available=False))
        one, both, kept = [await self.phone(ANDROID_6, reaction=SILENT) for _ in range(3)]
        calls = [self.call(phone) for phone in (native, busy, one, both, kept)]
        self.assertEqual((await calls[1]).outcome, "unavailable")
        self.assertEqual(len(busy.pushes), 1)
        for phone in (one, both, kept):
            await self.pushed(phone, 2)
            self.assertEqual(await self.answer(phone, False), 202)
        await self.get(self.daemons[0].url("/health/"))
        self.assertEqual([call.called for call in calls[2:]], [False, False, False])
        self.assertEqual(await self.answer(one, True), 202)
        self.assertEqual(await self.answer(both, False), 202)
        self.assertEqual(await self.outcomes(*calls[2:]), ["answered", "unavailable", "timeout"])
        self.assertEqual((await calls[0]).outcome, "answered")
        self.assertEqual([answer.available for answer in native.answers], [False, True])
        self.assertNotIn(Effect.SIP_STOPPED, native.effects)

    async def test_late_answers(self) -> None:
        """An answer after the time-out gets 404 and is counted; one to an unknown call is not."""
        self.calls = "roundtrip_wait_ms = 500\nresend_interval_ms = 250\n"
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        self.assertEqual(await self.outcomes(self.call(phone)), ["timeout"])
        self.assertEqual(await self.answer(phone, True), 404)
        self.assertEqual(phone.effects, [Effect.SIP_STOPPED])
        await phone.answer({**data(phone), "unique_key": "no-call"}, available=True)
        late = r'middlewared_late_answers_total\{.*platform="android".*\}'
        await self.until_metric(late, 1)
        self.assertEqual(await self.metric(late), 1)
        self.assertEqual(await self.metric("middlewared_late_answer_seconds_count"), 1)


def has_answered(phone: Phone, available: bool) -> bool:
    """Whether the phone sent this answer and got a reply."""
    return any(answer.available is available for answer in phone.answers)


class SilentDeviceTests(PushingTestCase):
    """A phone whose calls were all missed."""

    calls = (
        "roundtrip_wait_ms = 900\nresend_interval_ms = 300\n"  # two pushes
        "silent_calls = 2\nsilent_wait_ms = 200\n"
    )

    async def test_late_answer_ends_the_silence(self) -> None:
        """A silent device that answers after its short wait gets the full wait again."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        while await self.pushes_of_a_call(phone) != 1:
            pass
        self.assertEqual(await self.answer(phone, True), 404)
        while await self.pushes_of_a_call(phone) != 2:
            await self.answer(phone, True)

    async def pushes_of_a_call(self, phone: Phone) -> int:
        before = len(phone.pushes)
        self.assertEqual(await self.outcomes(self.call(phone)), ["timeout"])
        return len(phone.pushes) - before
