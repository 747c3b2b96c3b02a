"""
The rows of the history's tables: what is written, and how a call is put together again. Pure.

A row has only texts and numbers, of which the last text is JSON with all that is not searched
for. Until they are written, rows keep nothing else alive. Texts that no database takes are
corrected: those of the API have been checked, those of providers have not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

import attrs

from middlewared.database import Row
from middlewared.history.interface import (
    CallFigures,
    CallRecord,
    DeviceEvent,
    Hindrance,
    HistoryRow,
    KeptAnswer,
    KeptCall,
    KeptPush,
    KeptReport,
    Numbers,
)
from middlewared.history.numbers import digits_of, kept_name, kept_number
from middlewared.logs import redacted

CALL_COLUMNS = (
    *("unique_key", "call_id", "sip_user_id", "app", "platform", "daemon", "pbx"),
    *("started_at", "outcome", "phonenumber", "caller_id", "number", "details"),
)
FACT_COLUMNS = ("unique_key", "sip_user_id", "at", "kind", "details")
EVENT_COLUMNS = (
    *("sip_user_id", "at", "event", "why", "reason", "platform", "app", "token", "daemon"),
)

FIGURE_COLUMNS = ("at", "daemon", "app", "platform", "outcomes", "wakeups")

ANSWER, JOINED = "answer", "joined"
"""The kinds of facts that are not reports."""

LONGEST_TEXT = 255
"""Characters of a text that are kept; longer ones are providers' or of unknown fields."""
_MOST_FIELDS = 32
# Made once: json.dumps makes an encoder for each text unless all settings are its own.
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_HINDRANCES = {each.value for each in Hindrance}


def call_row(record: CallRecord, daemon: str, numbers: Numbers) -> HistoryRow:
    """A row of ``calls``; of its caller only what ``numbers`` allows."""
    phonenumber = kept_number(record.phonenumber, numbers)
    return (
        record.unique_key,
        record.call_id,
        record.sip_user_id,
        record.app,
        record.platform,
        daemon,
        record.pbx,
        record.start,
        record.outcome,
        phonenumber,
        kept_name(record.caller_id, numbers),
        digits_of(phonenumber),
        _details(record),
    )


def _details(record: CallRecord) -> str:
    """
    The JSON text of what is not searched for. What most calls do not have is left out.

    Put together here, since an encoder would take three times as long, for each call. Times are
    whole microseconds from the start of the call.
    """
    start, answer = record.start, record.answer
    pushes = ",".join([_push_text(start, push) for push in record.pushes])
    text = (
        f'{{"steps":{_quoted(record.steps)},"pushes":[{pushes}],"wait_ms":{round(record.wait_ms)}'
    )
    if answer is not None:
        after_us, available = (answer.time - start) * 1e6, "true" if answer.available else "false"
        text += f',"answer":[{round(after_us)},{available},{_quoted(answer.id)}]'
    if record.hindrance is not Hindrance.NONE:
        text += f',"hindrance":{_quoted(record.hindrance.value)}'
    if record.inherited:
        text += f',"inherited":{record.inherited}'
    return _storable(f'{text},"token":{_quoted(record.token)}}}')


def _push_text(start: float, push: KeptPush) -> str:
    attempt, time, verdict, reason, took_ms, uncertain, provider_id = push
    reason = _quoted(redacted(reason)[:LONGEST_TEXT]) if reason else '""'
    return (
        f'[{attempt},{round((time - start) * 1e6)},"{verdict}",{reason},{round(took_ms * 1e3)},'
        f"{'true' if uncertain else 'false'},{_quoted(provider_id[:LONGEST_TEXT])}]"
    )


def answer_row(unique_key: str, sip_user_id: str, answer: KeptAnswer) -> HistoryRow:
    """A row of ``call_facts`` for an answer."""
    details = {
        "available": answer.available,
        "late_ms": answer.late_milliseconds,
        "id": answer.id,
    }
    return unique_key, sip_user_id, round(answer.time, 6), ANSWER, _json(details)


def joined_row(unique_key: str, sip_user_id: str, time: float) -> HistoryRow:
    """A row of ``call_facts`` for a repeated request."""
    return unique_key, sip_user_id, round(time, 6), JOINED, "{}"


def report_row(unique_key: str, sip_user_id: str, report: KeptReport) -> HistoryRow:
    """A row of ``call_facts`` for a report of an app, whose names and values have bounds."""
    fields = {
        name[:LONGEST_TEXT]: value[:LONGEST_TEXT]
        for name, value in list(report.fields.items())[:_MOST_FIELDS]
    }
    return unique_key, sip_user_id, round(report.time, 6), report.kind, _json(fields)


def device_event_row(event: DeviceEvent, daemon: str) -> HistoryRow:
    """A row of ``device_events``."""
    reason = _cleaned(event.reason[:LONGEST_TEXT])
    return (
        *(str(event.sip_user_id), round(event.time, 6), event.event, event.why, reason),
        *(event.platform, event.app, event.token, daemon),
    )


def figures_row(figures: CallFigures) -> HistoryRow:
    """A row of ``call_figures``."""
    return (
        *(figures.at, figures.daemon, figures.app, figures.platform),
        *(_json(figures.outcomes), _json(figures.wakeups)),
    )


def _json(details: Mapping[str, object]) -> str:
    """The JSON text of the last column."""
    return _storable(_encode(details))


def _storable(text: str) -> str:
    """A JSON text without what no database and no page can show."""
    # NUL, or half of a surrogate pair; whole pairs are emojis.
    if "\\u0000" in text or "\\ud" in text:
        return _encode(_cleaned(json.loads(text)))
    return text


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
        case list() | tuple():
            return [_cleaned(each) for each in value]
        case dict():
            return {_cleaned(name): _cleaned(each) for name, each in value.items()}
        case _:
            return value


def kept_calls(calls: Iterable[Row], facts: Iterable[Row]) -> list[KeptCall]:
    """
    The calls of rows of ``calls``, with the facts of their keys.

    A key that several calls had in turn gives each fact to the last call that had
    begun by then. What one account reports is never attached to a call to another.
    """
    found = [_kept_call(row) for row in dict.fromkeys(calls)]  # a batch that was written twice
    by_key: dict[str, list[KeptCall]] = defaultdict(list)
    for call in sorted(found, key=lambda each: each.record.start):
        by_key[call.record.unique_key].append(call)
    attached: dict[int, list[Row]] = defaultdict(list)
    for fact in dict.fromkeys(facts):
        key, sip_user_id, at, *_ = fact
        owner = _owner([c for c in by_key[key] if sip_user_id in ("", c.record.sip_user_id)], at)
        if owner is not None:
            attached[id(owner)].append(fact)
    return [_with_facts(call, attached[id(call)]) for call in found]


def _owner(calls: Sequence[KeptCall], at: float) -> KeptCall | None:
    begun = [call for call in calls if call.record.start <= at]
    return begun[-1] if begun else next(iter(calls), None)


def _kept_call(row: Row) -> KeptCall:
    values = dict(zip(CALL_COLUMNS, row, strict=True))
    details = json.loads(values["details"])
    start, answer = values["started_at"], details.get("answer")
    record = CallRecord(
        unique_key=values["unique_key"],
        call_id=values["call_id"],
        sip_user_id=values["sip_user_id"],
        app=values["app"],
        platform=values["platform"],
        pbx=values["pbx"],
        start=start,
        outcome=values["outcome"],
        phonenumber=values["phonenumber"],
        caller_id=values["caller_id"],
        steps=details["steps"],
        pushes=[_kept_push(start, *push) for push in details["pushes"]],
        answer=None if answer is None else _deciding(start, *answer),
        wait_ms=details["wait_ms"],
        hindrance=_hindrance(details.get("hindrance", "")),
        token=details["token"],
        inherited=details.get("inherited", 0),
    )
    return KeptCall(record=record, daemon=values["daemon"])


def _hindrance(text: str) -> Hindrance:
    """A newer program may know others."""
    return Hindrance(text) if text in _HINDRANCES else Hindrance.NONE


def _kept_push(
    start: float,
    attempt: int,
    after_us: int,
    verdict: str,
    reason: str,
    took_us: int,
    uncertain: bool,
    provider_id: str,
) -> KeptPush:
    time = start + after_us / 1e6
    return KeptPush(attempt, time, verdict, reason, took_us / 1e3, uncertain, provider_id)


def _deciding(start: float, after_us: int, available: bool, id: str) -> KeptAnswer:
    return KeptAnswer(start + after_us / 1e6, available, True, None, id)


def _with_facts(call: KeptCall, facts: Sequence[Row]) -> KeptCall:
    deciding = call.record.answer
    answers = [] if deciding is None else [deciding]
    joined: list[float] = []
    reports: list[KeptReport] = []
    for _, _, at, kind, text in sorted(facts, key=lambda fact: fact[2]):
        details: Mapping[str, Any] = json.loads(text)
        if kind == ANSWER:
            answer = KeptAnswer(at, details["available"], False, details["late_ms"], details["id"])
            if _is_deciding(answer, deciding):
                deciding = None  # another without an id is a repeat
            elif not answer.id or answer.id not in {each.id for each in answers}:
                answers.append(answer)
        elif kind == JOINED:
            joined.append(at)
        else:
            reports.append(KeptReport(at, kind, details))
    in_order = sorted(answers, key=lambda answer: answer.time)
    return attrs.evolve(call, answers=in_order, joined=joined, reports=reports)


def call_figures(rows: Iterable[Row]) -> list[CallFigures]:
    """The figures of rows with the columns of :data:`FIGURE_COLUMNS`."""
    return [
        CallFigures(
            at=at,
            daemon=daemon,
            app=app,
            platform=platform,
            outcomes=json.loads(outcomes),
            wakeups=json.loads(wakeups),
        )
        for at, daemon, app, platform, outcomes, wakeups in dict.fromkeys(rows)
    ]


def _is_deciding(answer: KeptAnswer, deciding: KeptAnswer | None) -> bool:
    """
    Whether an answer that another daemon received is the one that decided the call.

    Acceptances have no id: the first of another daemon is the one that decided.
    """
    if deciding is None or answer.late_milliseconds is not None:
        return False
    return (answer.available, answer.id) == (deciding.available, deciding.id)


def device_events(rows: Iterable[Row]) -> list[DeviceEvent]:
    """The events of rows with the columns of :data:`EVENT_COLUMNS`."""
    return [
        DeviceEvent(
            time=at,
            sip_user_id=sip_user_id,
            event=event,
            why=why,
            reason=reason,
            platform=platform,
            app=app,
            token=token,
        )
        for sip_user_id, at, event, why, reason, platform, app, token, _ in dict.fromkeys(rows)
    ]
