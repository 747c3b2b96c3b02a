"""
What happened in a call, moment by moment, in words: for the time-line and its text. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from middlewared.calls.interface import OpenCall
from middlewared.history.interface import (
    LOG_METRICS,
    KeptAnswer,
    KeptCall,
    KeptPush,
    provider_of,
)

_STEPS = {
    "device": "the device was looked up",
    "sent": "a push was sent",
    "push": "the push has a result",
    "answer": "the phone answered",
    "hung-up": "the PBX closed its connection",
    "replied": "the PBX has its reply",
}
MOST_MOMENTS = 60
"""Moments of a call that are shown; an app can report as often as it likes."""


@attrs.frozen
class Moment:
    """
    Something that happened ``after_ms`` the start of the call, and had taken ``took_ms``.

    ``kind``: daemon, good, bad, calm.
    """

    after_ms: float
    took_ms: float
    what: str
    kind: str = "daemon"


def kept_story(call: KeptCall) -> Sequence[Moment]:
    """The moments of a call that is over, in order."""
    return _in_order(_kept(call))


def open_story(call: OpenCall) -> Sequence[Moment]:
    """The moments so far of a call that waits."""
    return _in_order(_steps(call.steps))


def steps_story(steps: Iterable[tuple[str, float]]) -> Sequence[Moment]:
    """The moments of the steps of a request."""
    return _in_order(_steps(steps))


def _in_order(moments: Iterable[Moment]) -> Sequence[Moment]:
    return sorted(moments, key=lambda moment: moment.after_ms)[:MOST_MOMENTS]


def _kept(call: KeptCall) -> Iterator[Moment]:
    record = call.record
    for moment in _steps((step.step, step.milliseconds) for step in record.steps):
        if moment.kind == "daemon":  # pushes and answers are known better
            yield moment
    provider = provider_of(record.platform)
    for push in record.pushes:
        after_ms = (push.time - record.start) * 1000 + push.milliseconds
        kind = "calm" if push.uncertain else "good" if push.verdict == "accepted" else "bad"
        yield Moment(after_ms, push.milliseconds, _push_text(push, provider), kind)
    accepted = [p.time + p.milliseconds / 1000 for p in record.pushes if p.verdict == "accepted"]
    for answer in call.answers:
        kind = "good" if answer.available and answer.late_milliseconds is None else "calm"
        # The bar is the time that the phone took.
        woken_ms = max(0.0, answer.time - min(accepted)) * 1000 if accepted else 0.0
        after_ms = (answer.time - record.start) * 1000
        yield Moment(after_ms, woken_ms, _answer_text(answer), kind)
    for time in call.joined:
        yield Moment((time - record.start) * 1000, 0.0, "the PBX repeated the call", "calm")
    for report in call.reports:
        kind = "its figures" if report.kind == LOG_METRICS else "why it ended"
        after_ms = (report.time - record.start) * 1000
        yield Moment(after_ms, 0.0, f"the app reported {kind}", "calm")


def _steps(steps: Iterable[tuple[str, float]]) -> Iterator[Moment]:
    at_ms = 0.0
    for label, took_ms in steps:
        at_ms += took_ms
        name, _, note = label.rstrip(")").partition("(")
        word, attempt = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz-")
        text = _STEPS.get(word, word)
        if word in {"sent", "push"}:
            text = f"push {attempt or 1}: {'sent' if word == 'sent' else note or 'has a result'}"
        kind = "daemon"
        if word == "push":
            kind = "good" if note == "accepted" else "bad"
        elif word in {"sent", "answer"}:
            kind = "calm"
        yield Moment(at_ms, took_ms, text, kind)


def _push_text(push: KeptPush, provider: str) -> str:
    reason = f" ({push.reason})" if push.reason else ""
    if push.uncertain:
        return f"push {push.attempt}: sent, but {provider} did not confirm it{reason}"
    if push.verdict == "accepted":
        return f"push {push.attempt}: accepted by {provider}"
    return f"push {push.attempt}: {push.verdict} according to {provider}{reason}"


def _answer_text(answer: KeptAnswer) -> str:
    text = "the phone took the call" if answer.available else "the phone refused the call"
    if answer.late_milliseconds is not None:
        return f"{text}, {duration(answer.late_milliseconds)} too late"
    return text if answer.decided else f"{text}; this did not decide it"


def duration(milliseconds: float) -> str:
    """A duration for people."""
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"
