"""The verdict on each kind of call."""

from __future__ import annotations

import re
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from middlewared.history.interface import (
    CallRecord,
    Hindrance,
    KeptAnswer,
    KeptCall,
    KeptPush,
    KeptReport,
)
from middlewared.history.verdict_facts import Facts
from middlewared.history.verdicts import VERDICTS, verdict
from middlewared.model import Outcome

START = 1_700_000_000.0


def push(
    verdict: str = "accepted", reason: str = "", attempt: int = 1, *, uncertain: bool = False
) -> KeptPush:
    return KeptPush(attempt, START + attempt - 1, verdict, reason, 41.2, uncertain, "")


def call(outcome: str, *pushes: KeptPush, **facts: Any) -> KeptCall:
    """A call of an iPhone; ``facts`` are of the record, except answers and reports."""
    answers, reports = facts.pop("answers", ()), facts.pop("reports", ())
    decided_after = facts.pop("decided_after", None)
    answer = None
    if decided_after is not None:
        answer = KeptAnswer(START + decided_after, outcome == "answered", True, None, "aa")
        answers = (*answers, answer)
    record = CallRecord(
        unique_key="key",
        call_id="id",
        sip_user_id="1",
        app="com.example.phone",
        platform="apns",
        start=START,
        outcome=outcome,
        phonenumber="123",
        caller_id="",
        steps="device=1.0 sent=1.0 end=1498.0",
        pushes=pushes,
        answer=answer,
        wait_ms=4000,
    )
    return KeptCall(
        record=attrs.evolve(record, **facts), daemon="d", answers=answers, reports=reports
    )


def report(**fields: str) -> KeptReport:
    return KeptReport(START + 30, "log-metrics", fields)


REFUSED = KeptAnswer(START + 1, False, False, None, "bb")
LATE = KeptAnswer(START + 5.2, True, False, 1200.0, "cc")
LATE_REFUSAL = LATE._replace(available=False)
# A call for each line of the table, in its order, and what must be in the text.
CASES: list[tuple[KeptCall, str]] = [
    (
        call("answered", push(), decided_after=0.8, reports=[report(failed_reason="DECLINED_x")]),
        "took the call after 800 ms, but its app reports that the call then failed: 'DECLINED_x'",
    ),
    (
        call("answered", push(attempt=3), decided_after=3.2),
        "only 3.2 s after it had been placed, because the first push was sent 2.0 s after that",
    ),
    (
        call("answered", push()._replace(milliseconds=2500.0), decided_after=3.2),
        "only 3.2 s after it had been placed, because Apple took 2.5 s to accept the push",
    ),
    (
        call("answered", push(), decided_after=3.2),
        "only 3.2 s after it had been placed; Apple accepted the push within 41 ms",
    ),
    (
        call("answered", push(), decided_after=0.8),
        "took the call after 800 ms; Apple accepted the push within 41 ms",
    ),
    (call("unavailable", push(), decided_after=0.9), "refused the call after 900 ms"),
    (
        call("timeout", push(attempt=3)),
        "sent only 2.0 s after the call had been placed, which left the phone less of its 4.0 s",
    ),
    (
        call("timeout", push()._replace(milliseconds=2500.0)),
        "Apple took 2.5 s to accept the push, which left the phone less of its 4.0 s",
    ),
    (call("timeout", push(), answers=[LATE]), "took the call, but 1.2 s too late: it had 4.0 s"),
    (
        call("timeout", push(), push(attempt=2), answers=[REFUSED]),
        "refused once, as apps do .* within 4.0 s (2 pushes sent)",
    ),
    (call("timeout", inherited=2), "A daemon that failed during the call had sent 2 pushes"),
    (
        call("timeout", push(), hindrance=Hindrance.SILENT),
        "has not answered its last calls, so it got one push and less time",
    ),
    (
        call("timeout", push(), push(attempt=2), push(attempt=3)),
        "Apple accepted 3 pushes, the first within 41 ms, but the phone did not answer within 4.0",
    ),
    (
        call("timeout", push("temporary", "timeout", uncertain=True), platform="android"),
        "Google did not confirm it ('timeout')",
    ),
    (
        call("timeout", push("temporary", "InternalServerError")),
        "Apple accepted no push within 4.0 s: 'InternalServerError'. The phone is not to blame",
    ),
    (call("timeout"), "within 1.5 s, because there was no free connection to Apple"),
    (
        call("timeout", steps="device=1500.0"),
        "after 1.5 s, before any push was sent",
    ),
    (call("no-device", hindrance=Hindrance.DO_NOT_DISTURB), "set to do not disturb"),
    (call("no-device", hindrance=Hindrance.NOT_REGISTERED), "No phone is registered"),
    (call("token-dead", push("token-dead", "Unregistered")), "the app was removed from the phone"),
    (
        call("push-failed", hindrance=Hindrance.NO_SECTION),
        "no section for the app 'com.example.phone' on apns",
    ),
    (call("push-failed", push("token-suspect", "BadDeviceToken")), "another app, project or envi"),
    (call("push-failed", push("config-fault", "TopicDisallowed")), "other phones of this app are"),
    (call("push-failed"), "could not be sent: no reason given"),
    (call("hung-up", push()), "gave up, .* after 1.5 s; Apple had accepted one push"),
    (call("cancelled", push("temporary", "x")), "cancelled the call; Apple had not accepted a"),
    (call("service-down"), "database or Redis could not be reached"),
    (call("draining", push()), "being stopped"),
    (call("overloaded"), "more calls than it could serve"),
    (call("brand-new"), "ended as brand-new after 1.5 s"),
]


class VerdictTests(SynchronousTestCase):
    """Each line of the table, and the texts as a whole."""

    def test_each_line(self) -> None:
        """Every line of the table is reached by its own call, and gives its text."""
        self.assertEqual(len(CASES), len(VERDICTS))
        for number, (kept, part) in enumerate(CASES):
            applies = [line for line, (applies, _) in enumerate(VERDICTS) if applies(Facts(kept))]
            self.assertEqual(applies[0], number, part)
            pattern = re.escape(part).replace(r"\.\*", ".*")
            self.assertRegex(verdict(kept), pattern)

    def test_texts_are_sentences(self) -> None:
        """They can be read out: nothing is left to fill in, and each ends with a full stop."""
        for kept, _ in CASES:
            text = verdict(kept)
            self.assertRegex(text, r"^[A-Z].*\.$")
            self.assertNotRegex(text, r"[{}]|None|  |\.\.|f\.")

    def test_every_outcome_has_a_line(self) -> None:
        """No outcome of a call gets the last line."""
        not_a_call = {Outcome.MALFORMED, Outcome.FORBIDDEN, Outcome.NO_CALL}
        for outcome in {*Outcome} - not_a_call:
            self.assertNotIn("ended as", verdict(call(outcome.value)), outcome)

    def test_refusals_that_came_late(self) -> None:
        """The phone is reachable all the same."""
        text = verdict(call("timeout", push(), answers=[LATE_REFUSAL]))
        self.assertIn("The phone refused the call, but 1.2 s too late", text)

    def test_answers_that_came_late_for_another_reason(self) -> None:
        """A slow daemon or provider is named first, and how late the answer was beside it."""
        slow = push()._replace(milliseconds=2500.0)
        for pushes in ([push(attempt=3)], [slow]):
            text = verdict(call("timeout", *pushes, answers=[LATE]))
            self.assertIn("did not answer in time: its answer came 1.2 s too late.", text)
            self.assertNotIn("battery", text)

    def test_reported_endings(self) -> None:
        """What the app reports of the end is quoted, whichever report it came with."""
        for each in (
            report(hangup_reason="busy"),
            KeptReport(1.0, "hangup-reason", {"reason": "busy"}),
        ):
            text = verdict(call("answered", push(), decided_after=0.8, reports=[each]))
            self.assertIn("The app reports why it ended: 'busy'. If the phone", text)

    def test_failures_without_a_reason(self) -> None:
        """A call that was not set up has failed."""
        kept = call(
            "answered", push(), decided_after=1, reports=[report(call_setup_successful="false")]
        )
        self.assertIn("failed: no reason given", verdict(kept))

    def test_hostile_texts(self) -> None:
        """Texts of providers and apps are quoted, escaped and cut, and are no template."""
        hostile = "{f.record}\u202e</b>" + "x" * 300
        kept = call("answered", push(), decided_after=1, reports=[report(failed_reason=hostile)])
        self.assertIn(r"'{f.record}\u202e</b>xxx", verdict(kept))
        self.assertLess(len(verdict(kept)), 500)
        self.assertNotIn("\u202e", verdict(call("push-failed", push("config-fault", hostile))))

    def test_hang_up_before_any_push(self) -> None:
        """What had been done until then is stated."""
        self.assertIn("; no push had been sent yet, and", verdict(call("hung-up")))
        self.assertIn("; Apple had accepted one push, and", verdict(call("cancelled", push())))
