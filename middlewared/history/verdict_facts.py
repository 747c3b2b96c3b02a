"""
The facts of a call as the texts of :mod:`.verdicts` need them. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from middlewared.booleans import parse_boolean
from middlewared.history.call_story import duration
from middlewared.history.interface import KeptAnswer, KeptCall, KeptPush, provider_of
from middlewared.quoting import quoted

SLOW_MS = 2000.0
"""A phone that answered later than this after its call had begun was slow."""
LATE_PUSH_MS = 1000.0
"""A first push that was sent later than this after the call had begun was late."""


class Facts:
    """
    A call's facts, as the texts need them.

    :ivar accepted, uncertain: those of its pushes.
    :ivar late: answers after the time-out; ``undecided``: others that did not end the call.
    """

    def __init__(self, call: KeptCall) -> None:
        self.call = call
        self.record = call.record
        self.outcome = call.record.outcome
        self.hindrance = call.record.hindrance
        self.all_pushes: Sequence[KeptPush] = call.record.pushes
        self.accepted = [push for push in self.all_pushes if push.verdict == "accepted"]
        self.uncertain = [push for push in self.all_pushes if push.uncertain]
        self.late: Sequence[KeptAnswer] = [
            each for each in call.answers if each.late_milliseconds is not None
        ]
        self.undecided = [
            each for each in call.answers if not each.decided and each.late_milliseconds is None
        ]

    @property
    def provider(self) -> str:
        """Whose push service it is."""
        return provider_of(self.record.platform)

    @property
    def platform(self) -> str:
        return self.record.platform

    @property
    def app(self) -> str:
        return quoted(self.record.app)

    @property
    def last_verdict(self) -> str:
        """The provider's verdict on the last push; "": there was none."""
        return self.all_pushes[-1].verdict if self.all_pushes else ""

    @property
    def reason(self) -> str:
        """The last reason that the provider gave."""
        reasons = [push.reason for push in self.all_pushes if push.reason]
        return quoted(reasons[-1]) if reasons else "no reason given"

    @property
    def pushes(self) -> str:
        """How many pushes were sent."""
        return _number(len(self.all_pushes), "push", "pushes")

    @property
    def accepted_pushes(self) -> str:
        """How many pushes the provider accepted."""
        return _number(len(self.accepted), "push", "pushes")

    @property
    def accepted_after(self) -> str:
        """How long the provider took to accept the first push that it accepted."""
        return duration(self.accepted[0].milliseconds) if self.accepted else ""

    @property
    def sent_after_ms(self) -> float:
        """From the start of the call to its first push; 0.0: there was none."""
        first = min((push.time for push in self.all_pushes), default=self.record.start)
        return max(0.0, first - self.record.start) * 1000

    @property
    def sent_after(self) -> str:
        return duration(self.sent_after_ms)

    @property
    def is_sent_late(self) -> bool:
        """Whether the first push was sent late; of pushes of a failed daemon it is not known."""
        return self.sent_after_ms > LATE_PUSH_MS and not self.record.inherited

    @property
    def is_slow(self) -> bool:
        """Whether the phone took the call late."""
        return self.answered_after_ms > SLOW_MS

    @property
    def is_accepted_late(self) -> bool:
        """Whether the provider took more than half of the phone's time to accept a push."""
        took_ms = min((push.milliseconds for push in self.accepted), default=0.0)
        return took_ms > self.record.wait_ms / 2

    @property
    def inherited_pushes(self) -> str:
        """How many pushes a daemon that failed had sent."""
        return _number(self.record.inherited, "push", "pushes")

    @property
    def accepted_part(self) -> str:
        """The same as a part of a sentence; "": it accepted none."""
        return f"; {self.provider} accepted the push within {self.accepted_after}" * bool(
            self.accepted
        )

    @property
    def done(self) -> str:
        """What had been done when the call ended."""
        if self.accepted:
            return f"{self.provider} had accepted {self.accepted_pushes}"
        if self.all_pushes:
            return f"{self.provider} had not accepted a push yet"
        return "no push had been sent yet"

    @property
    def lasted(self) -> str:
        """How long the call lasted here."""
        return duration(sum(took_ms for _, took_ms in self.record.step_times))

    @property
    def wait(self) -> str:
        """How long the phone had to answer."""
        return duration(self.record.wait_ms)

    @property
    def answered_after_ms(self) -> float:
        """From the start of the call to the answer that decided it."""
        answer = self.record.answer
        return 0.0 if answer is None else max(0.0, answer.time - self.record.start) * 1000

    @property
    def answered_after(self) -> str:
        return duration(self.answered_after_ms)

    @property
    def late_by(self) -> str:
        """How late the first late answer was; "": there was none."""
        return duration(self.late[0].late_milliseconds or 0.0) if self.late else ""

    @property
    def late_part(self) -> str:
        """The same as a part of a sentence."""
        return f": its answer came {self.late_by} too late" * bool(self.late)

    @property
    def late_answer(self) -> str:
        return "took the call" if self.late[0].available else "refused the call"

    @property
    def refusals(self) -> str:
        """How often the phone refused without ending the call."""
        number = len(self.undecided)
        return {1: "once", 2: "twice"}.get(number, f"{number} times")

    @property
    def waited_for_connection(self) -> bool:
        """Whether a push was to be sent, and had no connection until the call was over."""
        sent = any(name.startswith("sent") for name, _ in self.record.step_times)
        return sent and not self.all_pushes

    @property
    def failure(self) -> str:
        """Why the app reports that the call failed once it was passed on; "": it does not."""
        for report in self.call.reports:
            reason = report.fields.get("failed_reason", "")
            if reason or parse_boolean(report.fields.get("call_setup_successful", "")) is False:
                return quoted(reason) if reason else "no reason given"
        return ""

    @property
    def ending_part(self) -> str:
        """A sentence with the reason that the app reports for the end; "": it reports none."""
        for report in self.call.reports:
            reason = report.fields.get("hangup_reason") or report.fields.get("reason")
            if reason:
                return f" The app reports why it ended: {quoted(reason)}."
        return ""


def _number(number: int, one: str, many: str) -> str:
    return f"one {one}" if number == 1 else f"{number} {many}"
