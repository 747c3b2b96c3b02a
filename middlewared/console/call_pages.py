"""
The pages about calls: a search, a call that is over, a call that waits. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from middlewared.calls.interface import OpenCall
from middlewared.console.drawings import time_line
from middlewared.console.links import account_link, app_text, call_path, call_table, moment
from middlewared.console.markup import Child, element, facts, joined, page, section, state
from middlewared.console.operator_calls import OperatorCall
from middlewared.console.search_parameters import OUTCOMES, PLATFORMS
from middlewared.history.call_story import Moment, duration, kept_story, steps_story
from middlewared.history.interface import CallPage, KeptCall

MOST_MOMENTS = 60
"""Moments of a call that are shown; an app can report as often as it likes."""


def calls_page(texts: Mapping[str, str], found: CallPage, user: str) -> bytes:
    """The calls that match a search."""
    parts: list[Child] = [element("h1", "Calls"), _filters(texts)]
    if found.calls:
        parts.append(call_table(found.calls, "The newest first; times are UTC"))
    else:
        parts.append(element("p", _nothing_found(texts), class_="empty"))
    if found.next is not None:
        older = urlencode({**texts, "before": found.next})
        link = element("a", "Older calls", href=f"/calls?{older}", rel="next")
        parts.append(element("p", link))
    return page("Calls", *parts, user=user)


def _nothing_found(texts: Mapping[str, str]) -> str:
    if not any(texts.values()):
        return (
            "No call is kept yet. Ended calls appear here within seconds, unless [history] days"
            " is 0."
        )
    return (
        "No kept call matches. Check the text for typing errors, remove filters, or search by"
        " the account. Callers' numbers may be kept in part only ([history] numbers), and older"
        " calls are deleted ([history] days)."
    )


def _filters(texts: Mapping[str, str]) -> Markup:
    def field(label: str, control: Markup) -> Markup:
        return element("label", label, control)

    def choice(name: str, known: Sequence[str]) -> Markup:
        options = [element("option", "any", value="")]
        options += [
            element("option", each, value=each, selected=texts.get(name) == each) for each in known
        ]
        return element("select", *options, name=name)

    def text(name: str, kind: str = "text") -> Markup:
        value = texts.get(name, "")
        if kind == "datetime-local":
            value = value[:16]
        return element("input", type=kind, name=name, value=value, maxlength=255)

    box = field("Account, call_id, unique_key or number", text("q", "search"))
    filters = element(
        "details",
        element("summary", "Filter by outcome, app, platform, time"),
        element(
            "div",
            field("Outcome", choice("outcome", OUTCOMES)),
            field("App", text("app")),
            field("Platform", choice("platform", PLATFORMS)),
            field("Since (UTC)", text("since", "datetime-local")),
            field("Before (UTC)", text("until", "datetime-local")),
            element("button", "Search"),
            class_="filters",
        ),
        open=any(texts.get(name) for name in ("outcome", "app", "platform", "since", "until")),
    )
    search = element("div", box, element("button", "Search"), class_="search")
    return element("form", search, filters, action="/calls", role="search")


def kept_call_page(call: KeptCall, document: Mapping[str, Any], user: str) -> bytes:
    """One call that is over: what happened, and what to do."""
    record = call.record
    moments = kept_story(call)
    reports = [
        joined(
            element("h3", f"The app reported ({report.kind}), ", moment(report.time)),
            facts(list(report.fields.items())),
        )
        for report in call.reports[:20]
    ]
    raw = Markup("\n").join(Markup.escape(line) for line in _lines(document))
    return page(
        f"Call to {record.sip_user_id}",
        element("h1", "Call to ", account_link(record.sip_user_id)),
        element("p", state(record.outcome), " ", moment(record.start)),
        element("p", call.verdict, class_=f"verdict {_kind_of(record.outcome)}", id="verdict"),
        section("What happened when", _story(moments, record.wait_ms), id="story"),
        section("The call", _call_facts(call), id="facts"),
        section("What the app reported", *reports, id="reports") if reports else None,
        section("As JSON", _raw(raw, f"/api{call_path(record.unique_key)}"), id="raw"),
        user=user,
    )


def _lines(document: Mapping[str, Any]) -> Sequence[str]:
    # ASCII: what is not visible is an escape.
    return json.dumps(document, indent=2).split("\n")


def _raw(raw: Markup, href: str) -> Markup:
    summary = element("summary", "Show the record as the API has it")
    link = element("p", element("a", "Open it in the API", href=href))
    return element("details", summary, element("pre", raw, tabindex="0"), link)


def _kind_of(outcome: str) -> str:
    mark = state(outcome)
    return next(kind for kind in ("good", "calm", "warn", "bad") if f"state {kind}" in mark)


def _call_facts(call: KeptCall) -> Markup:
    record = call.record
    caller = " ".join(filter(None, (record.phonenumber, record.caller_id)))
    ids = ", ".join(push.provider_id for push in record.pushes if push.provider_id)
    return facts(
        [
            ("account", account_link(record.sip_user_id)),
            ("caller", caller),
            *([("PBX", record.pbx)] if record.pbx else []),
            ("app", app_text(record.app, record.platform)),
            ("push token (fingerprint)", record.token),
            ("daemon", call.daemon),
            ("call_id", record.call_id),
            ("unique_key", record.unique_key),
            ("time to answer", duration(record.wait_ms) if record.wait_ms else "-"),
            ("the provider's ids of the pushes", ids),
        ]
    )


def _story(all_moments: Sequence[Moment], wait_ms: float) -> Markup:
    moments = all_moments[:MOST_MOMENTS]
    lines = [
        element(
            "li",
            element("span", duration(each.after_ms)),
            element("span", each.what),
        )
        for each in moments
    ]
    if len(all_moments) > len(moments):
        lines.append(element("li", element("span"), element("span", "and more: see the JSON")))
    limit = None
    if wait_ms:
        limit = f"Dashed: the phone's time to answer, {duration(wait_ms)}."
        limit = element("p", limit, class_="quiet")
    drawing = element("div", time_line(moments, wait_ms), limit)
    return element("div", drawing, element("ol", *lines), class_="story")


def open_call_parts(call: OpenCall, daemon: str) -> Mapping[str, str]:
    """The parts of the page of a call that waits."""
    moments = steps_story(call.steps, call.platform)
    newest = moments[-1].what if moments else "the device is being looked up"
    return {
        "progress": joined(state("waiting"), ", ", newest),
        "steps": _story(moments, call.wait_ms),
        "where": facts(
            [
                ("app", app_text(call.app, call.platform) if call.app else "-"),
                ("daemon", daemon),
                ("call_id", call.call_id),
                ("since", moment(call.start)),
            ]
        ),
    }


def operator_call_parts(call: OperatorCall) -> Mapping[str, str]:
    """The same of a test call, which also may be over without being kept."""
    moments = steps_story(call.steps)
    outcome = call.outcome or "waiting"
    newest = moments[-1].what if moments else "the call begins"
    return {
        "progress": joined(state(outcome), ", ", newest),
        "steps": _story(moments, 0.0),
        "where": facts([("test call", call.unique_key)]),
    }


def live_call_page(sip_user_id: str, unique_key: str, parts: Mapping[str, str], user: str) -> bytes:
    """One call that waits, live until it is over."""
    content = {id: Markup(parts.get(id, "")) for id in ("progress", "steps", "where")}  # noqa: S704
    return page(
        f"Call to {sip_user_id}",
        element("h1", "Call to ", account_link(sip_user_id)),
        element("p", content["progress"], id="progress", role="status", class_="verdict"),
        section("What happens", element("div", content["steps"], id="steps"), id="happens"),
        section("The call", element("div", content["where"], id="where"), id="the-call"),
        user=user,
        live=f"/live{call_path(unique_key)}",
        refresh=True,
    )


def ended_test_call_page(sip_user_id: str, parts: Mapping[str, str], user: str) -> bytes:
    """A test call that is over, where no history is kept."""
    content = {id: Markup(html) for id, html in parts.items()}  # noqa: S704 - made above
    return page(
        f"Call to {sip_user_id}",
        element("h1", "Call to ", account_link(sip_user_id)),
        element("p", content["progress"], class_="verdict"),
        section("What happened when", content["steps"], id="steps"),
        element("p", "No history is kept ([history] days = 0).", class_="quiet"),
        user=user,
    )
