"""
The verdict on a call: what happened, where the time went, and what to do next. Pure.

:data:`VERDICTS` is read from the top; the first line that applies gives the text, in which
``{f.name}`` stands for an attribute of :class:`Facts`. To add one, put it above those that
would apply as well. Texts are read out to customers: whole sentences, no bare codes, the next
step last. What a provider or an app wrote is quoted, cut and escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from middlewared.booleans import parse_boolean
from middlewared.history.interface import (
    HUNG_UP,
    Hindrance,
    KeptAnswer,
    KeptCall,
    KeptPush,
    provider_of,
)
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
        return seconds(self.accepted[0].milliseconds) if self.accepted else ""

    @property
    def sent_after_ms(self) -> float:
        """From the start of the call to its first push; 0.0: there was none."""
        first = min((push.time for push in self.all_pushes), default=self.record.start)
        return max(0.0, first - self.record.start) * 1000

    @property
    def sent_after(self) -> str:
        return seconds(self.sent_after_ms)

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
        return seconds(sum(step.milliseconds for step in self.record.steps))

    @property
    def wait(self) -> str:
        """How long the phone had to answer."""
        return seconds(self.record.wait_ms)

    @property
    def answered_after_ms(self) -> float:
        """From the start of the call to the answer that decided it."""
        answer = self.record.answer
        return 0.0 if answer is None else max(0.0, answer.time - self.record.start) * 1000

    @property
    def answered_after(self) -> str:
        return seconds(self.answered_after_ms)

    @property
    def late_by(self) -> str:
        """How late the first late answer was."""
        return seconds(self.late[0].late_milliseconds or 0.0)

    @property
    def late_answer(self) -> str:
        return "took the call" if self.late[0].available else "refused the call"

    @property
    def refusals(self) -> str:
        """How often the phone refused without ending the call."""
        return _number(len(self.undecided), "time", "times")

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


def seconds(milliseconds: float) -> str:
    """A duration as one reads it out."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def verdict(call: KeptCall) -> str:
    """What happened to ``call``, where the time went, and what to do next."""
    facts = Facts(call)
    return next(text for applies, text in VERDICTS if applies(facts)).format(f=facts)


def _number(number: int, one: str, many: str) -> str:
    return f"one {one}" if number == 1 else f"{number} {many}"


def _outcome(outcome: str, also: Callable[[Facts], object] = lambda _: True) -> Applies:
    return lambda facts: facts.outcome == outcome and bool(also(facts))


Applies: TypeAlias = Callable[[Facts], bool]

VERDICTS: Sequence[tuple[Applies, str]] = (
    # The phone took the call
    (
        _outcome("answered", lambda f: f.failure),
        "The phone was woken and took the call after {f.answered_after}, but its app reports that"
        " the call then failed: {f.failure}. The waking worked. Look for the fault behind it: the"
        " phone's registration at the SIP proxy, its network, the codecs.",
    ),
    (
        _outcome("answered", lambda f: f.answered_after_ms > SLOW_MS),
        "The phone took the call, but only {f.answered_after} after it had been"
        " placed{f.accepted_part}. The caller waited that long.{f.ending_part} If this happens"
        " often, look at the phone's network and its battery saver.",
    ),
    (
        _outcome("answered"),
        "The phone was woken and took the call after {f.answered_after}{f.accepted_part}. The PBX"
        " was notified to send the call.{f.ending_part} If the phone did not ring nevertheless,"
        " look at the SIP proxy and at the app.",
    ),
    # The phone was woken, and did not take the call
    (
        _outcome("unavailable"),
        "The phone was woken and refused the call after {f.answered_after}. Its app could not take"
        " it: the user was in another call, or the app could not register at the SIP proxy. Ask"
        " the user, and look at the phone's registration there.",
    ),
    (
        _outcome("timeout", lambda f: f.late),
        "The phone {f.late_answer}, but {f.late_by} too late: it had {f.wait}{f.accepted_part}. It"
        " can be reached but is slow, because of its network or its battery saver. If many phones"
        " are, let calls wait longer ([calls] roundtrip_wait_ms).",
    ),
    (
        _outcome("timeout", lambda f: f.undecided),
        "The phone refused {f.refusals}, as apps do with a repeated push that they are already"
        " handling, but then gave no other answer within {f.wait} ({f.pushes} sent). Ask the user"
        " whether another call was under way, and look at the phone's registration at the SIP"
        " proxy.",
    ),
    (
        _outcome("timeout", lambda f: f.sent_after_ms > LATE_PUSH_MS and not f.record.inherited),
        "The first push was sent only {f.sent_after} after the call had been placed, which left the"
        " phone less of its {f.wait}, and it did not answer in time. The database or this daemon"
        " was too slow. Look at the daemon's log and at the load of its host.",
    ),
    (
        _outcome("timeout", lambda f: f.is_accepted_late),
        "{f.provider} took {f.accepted_after} to accept the push, which left the phone less of its"
        " {f.wait}, and it did not answer in time. Check the status page of {f.provider} and the"
        " connection from here to it (middlewared check --online).",
    ),
    (
        _outcome("timeout", lambda f: f.record.inherited and not f.accepted),
        "A daemon that failed during the call had sent {f.inherited_pushes}, and the phone did not"
        " answer within {f.wait}. What became of these pushes is lost with that daemon. If calls"
        " without such a failure end so, too, ask the user to open the app.",
    ),
    (
        _outcome("timeout", lambda f: f.hindrance is Hindrance.SILENT and f.accepted),
        "The phone has not answered its last calls, so it got one push and less time, and it did"
        " not answer this call either. {f.provider} accepted the push within {f.accepted_after},"
        " but the app is probably gone, logged out or no longer started by the system. Ask the"
        " user to open the app: the next answer or new registration ends this.",
    ),
    (
        _outcome("timeout", lambda f: f.accepted),
        "{f.provider} accepted {f.accepted_pushes}, the first within {f.accepted_after}, but the"
        " phone did not answer within {f.wait}. It is switched off or without a network, or the"
        " system no longer starts the app. Ask the user to open the app and to try again; if that"
        " helps, check the app's permissions for notifications and background work.",
    ),
    (
        _outcome("timeout", lambda f: f.uncertain),
        "The push was sent, but {f.provider} did not confirm it ({f.reason}), and the phone did not"
        " answer within {f.wait}. No one knows whether it was delivered. If many calls end so,"
        " check the connection from here to {f.provider}.",
    ),
    (
        _outcome("timeout", lambda f: f.all_pushes),
        "{f.provider} accepted no push within {f.wait}: {f.reason}. The phone is not to blame."
        " Check the status page of {f.provider} and the connection from here to it (middlewared"
        " check --online).",
    ),
    (
        _outcome("timeout"),
        "The call ended after {f.lasted}, before any push was sent: the database or this daemon was"
        " too slow. Look at the daemon's log and at the load of its host.",
    ),
    # The phone could not be woken
    (
        _outcome("no-device", lambda f: f.hindrance is Hindrance.DO_NOT_DISTURB),
        "The phone is registered, but set to do not disturb in its app, so it was not woken. Ask"
        " the user to switch that off in the app.",
    ),
    (
        _outcome("no-device"),
        "No phone is registered for this account, so none could be woken. Ask the user to open the"
        " app and to log in; the events of the account show when a phone was removed, and why.",
    ),
    (
        _outcome("token-dead"),
        "{f.provider} reports that the app is gone from the phone ({f.reason}). Its registration"
        " was removed, unless the phone had registered again meanwhile. Ask the user to open the"
        " app, or to install it again: that registers the phone.",
    ),
    (
        _outcome("push-failed", lambda f: f.hindrance is Hindrance.NO_SECTION),
        "The configuration has no section for the app {f.app} on {f.platform}, so its phones"
        " cannot be woken. The operator must add the section, or the user must install the"
        " current app.",
    ),
    (
        _outcome("push-failed", lambda f: f.last_verdict == "token-suspect"),
        "{f.provider} refused the phone's push token ({f.reason}): it belongs to another app,"
        " project or environment. Ask the user to open the app, which registers a new one. If many"
        " phones are affected, compare the app's section of the configuration with the app that"
        " was published.",
    ),
    (
        _outcome("push-failed", lambda f: f.last_verdict == "config-fault"),
        "{f.provider} refused the push because of the configuration ({f.reason}). This affects"
        " every phone of this app. The operator must check its credentials now (middlewared check"
        " --online).",
    ),
    (
        _outcome("push-failed"),
        "The push could not be sent: {f.reason}. The operator finds more in the daemon's log by"
        " this call's key.",
    ),
    # The call ended otherwise
    (
        _outcome(HUNG_UP),
        "The caller gave up, or the PBX closed its connection, after {f.lasted}; {f.done}, and the"
        " phone had not answered. If the PBX often does so, let it wait for the answer longer than"
        " {f.wait}.",
    ),
    (
        _outcome("cancelled"),
        "The caller gave up after {f.lasted}, and the PBX cancelled the call; {f.done}, and the"
        " phone had not answered. There is nothing to do, unless the phone is often that slow.",
    ),
    (
        _outcome("service-down"),
        "The call was refused because the database or Redis could not be reached. The phone is not"
        " to blame. The PBX should place such calls again through another daemon; the operator"
        " must look at the database and Redis.",
    ),
    (
        _outcome("draining"),
        "The daemon was being stopped and ended the call. The PBX, or the balancer before it,"
        " should have placed it again through another daemon: look for the same call there.",
    ),
    (
        _outcome("overloaded"),
        "The daemon had more calls than it can serve and refused this one. The PBX, or the balancer"
        " before it, should have placed it again through another daemon. If this happens often,"
        " add a daemon.",
    ),
    (
        lambda _: True,
        "The call ended as {f.outcome} after {f.lasted}. The operator finds more in the daemon's"
        " log by its key.",
    ),
)
"""The conditions and texts."""
