"""
What happened in a call, moment by moment, in words: for the console, its time-line, and the
commands. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from middlewared.history.interface import (
    LOG_METRICS,
    KeptAnswer,
    KeptCall,
    KeptPush,
    provider_of,
)

# Steps that are not about one push, by their names in the trace.
_STEPS = {
    "device": "the device was looked up",
    "answer": "the phone answered",
    "hung-up": "the PBX closed its connection",
    "replied": "the PBX got its reply",
    "timeout": "the call timed out",
    "draining": "the daemon was being stopped",
}
_RESULTS = {
    "accepted": "accepted by {provider}",
    "temporary": "not accepted by {provider} for now",
    "uncertain": "sent, but {provider} did not confirm it",
    "token-dead": "refused by {provider}, since the push token is no longer valid",
    "token-suspect": "refused by {provider}, since the push token is of another app or environment",
    "config-fault": "refused by {provider}, which is not the phone's fault",
}


@attrs.frozen
class Moment:
    """
    Something that happened ``after_ms`` the start of the call, and had taken ``took_ms``.

    ``kind``: daemon, good, bad, calm; or report: of the app, often long after the call.
    ``details``: more about it, for engineers.
    """

    after_ms: float
    took_ms: float
    what: str
    kind: str = "daemon"
    details: str = ""


def kept_story(call: KeptCall) -> Sequence[Moment]:
    """The moments of a call that is over, in order."""
    return _in_order(_kept(call))


def steps_story(steps: Iterable[tuple[str, float]], platform: str = "") -> Sequence[Moment]:
    """
    The moments of a call that waits, or is not kept.

    :param steps: names and milliseconds, as in Server-Timing.
    """
    return _in_order(_steps(steps, provider_of(platform)))


def duration(milliseconds: float) -> str:
    """A duration for people."""
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.1f} s"


def _in_order(moments: Iterable[Moment]) -> Sequence[Moment]:
    return sorted(moments, key=lambda moment: moment.after_ms)


def _kept(call: KeptCall) -> Iterator[Moment]:
    record = call.record
    provider = provider_of(record.platform)
    known = {push.attempt for push in record.pushes}

    def after_ms(time: float) -> float:
        return max(0.0, time - record.start) * 1000  # clocks of several daemons differ

    at_ms = 0.0
    for name, took_ms in record.step_times:
        at_ms += took_ms
        word, attempt = _split(name)
        if word == "sent" and attempt not in known:  # no connection until the call was over
            text = f"push {attempt}: waited for a connection to {provider}"
            yield Moment(at_ms, 0.0, text, "calm")
        elif word not in {"sent", "push", "answer"}:  # they are known better
            yield Moment(at_ms, took_ms, _STEPS.get(word, word))
    for push in record.pushes:
        yield _push(push, provider, after_ms(push.time) + push.milliseconds)
    accepted_at = record.accepted_at
    for answer in call.answers:
        kind = "good" if answer.available and answer.late_milliseconds is None else "calm"
        # The bar is the time that the phone took.
        woken_ms = 0.0 if accepted_at is None else max(0.0, answer.time - accepted_at) * 1000
        yield Moment(after_ms(answer.time), woken_ms, _answer_text(answer), kind)
    for time in call.joined:
        yield Moment(after_ms(time), 0.0, "the PBX repeated the call", "calm")
    for report in call.reports:
        what = "its figures" if report.kind == LOG_METRICS else "why it ended"
        yield Moment(
            after_ms(report.time), 0.0, f"the app reported {what}", "report", _fields(report.fields)
        )


def _steps(steps: Iterable[tuple[str, float]], provider: str) -> Iterator[Moment]:
    at_ms = 0.0
    sent_ms: dict[int, float] = {}
    for label, took_ms in steps:
        at_ms += took_ms
        note = label.rstrip(")").partition("(")[2]
        word, attempt = _split(label)
        if word == "sent":
            sent_ms[attempt] = at_ms
            yield Moment(at_ms, 0.0, f"push {attempt}: sent", "calm")
        elif word == "push":
            push_ms = at_ms - sent_ms.get(attempt, at_ms)
            kind = {"accepted": "good", "uncertain": "calm"}.get(note, "bad")
            yield Moment(at_ms, push_ms, _push_text(attempt, note, "", provider), kind)
        else:
            kind = "calm" if word == "answer" else "daemon"
            yield Moment(at_ms, took_ms, _STEPS.get(word, word), kind)


def _split(name: str) -> tuple[str, int]:
    """
    The word and the attempt of a step, without its note: of a first attempt only the word is
    written.
    """
    written = name.partition("(")[0]
    word = written.rstrip("0123456789")
    return word, int(written[len(word) :] or 1)


def _push(push: KeptPush, provider: str, after_ms: float) -> Moment:
    result = "uncertain" if push.uncertain else push.verdict
    text = _push_text(push.attempt, result, push.reason, provider)
    kind = {"accepted": "good", "uncertain": "calm"}.get(result, "bad")
    details = f"id {push.provider_id}" if push.provider_id else ""
    text = f"{text} after {duration(push.milliseconds)}"
    return Moment(after_ms, push.milliseconds, text, kind, details)


def _push_text(attempt: int, result: str, reason: str, provider: str) -> str:
    text = _RESULTS.get(result, result or "has a result").format(provider=provider)
    return f"push {attempt}: {text}" + (f" ({reason})" if reason else "")


def _answer_text(answer: KeptAnswer) -> str:
    text = "the phone took the call" if answer.available else "the phone refused the call"
    if answer.late_milliseconds is not None:
        return f"{text}, {duration(answer.late_milliseconds)} too late"
    return text if answer.decided else f"{text}; this did not decide it"


def _fields(fields: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())
