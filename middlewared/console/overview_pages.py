"""
The pages about what goes on: the overview and the apps. Pure.

Parts that change while a page is open are made by themselves: the live streams send them, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from markupsafe import Markup

from middlewared.console.drawings import histogram
from middlewared.console.links import (
    account_link,
    call_link,
    moment,
    search_box,
    table_moment,
)
from middlewared.console.markup import Child, element, facts, joined, page, section, state, table
from middlewared.console.overview import (
    WAKEUP_LABELS,
    AppFigures,
    Overview,
    median_wakeup,
    time_text,
)


def overview_page(overview: Overview, user: str) -> bytes:
    """The first page: the question, and what goes on."""
    parts = {id: Markup(html) for id, html in overview_parts(overview).items()}  # noqa: S704
    return page(
        "Overview",
        element("h1", "Why didn't the phone ring?"),
        search_box(),
        section("Held calls", element("div", parts["held"], id="held"), id="held-calls"),
        section("Now", element("div", parts["now"], id="now"), id="state-now"),
        section("The last six hours", element("div", parts["past"], id="past"), id="hours"),
        user=user,
        live="/live/overview",
    )


def overview_parts(overview: Overview) -> Mapping[str, str]:
    """The parts of the overview that change."""
    notice = None
    if not overview.complete:
        text = (
            "The database does not answer. This is what this daemon knows; calls to known devices"
            " go on."
        )
        notice = element("p", text, class_="notice")
    return {
        "held": _held(overview),
        "now": joined(notice, _daemons(overview), _dependencies(overview), _providers(overview)),
        "past": _past(overview),
    }


def _held(overview: Overview) -> Markup:
    held = [(report.daemon, call) for report in overview.daemons for call in report.held]
    waiting = sum(report.waiting for report in overview.daemons)
    if not held:
        return element("p", "No call waits for its phone at this moment.", class_="empty")
    held.sort(key=lambda each: each[1].start, reverse=True)
    rows: list[tuple[Child, ...]] = [
        (
            account_link(call.sip_user_id),
            call_link(call.unique_key, table_moment(call.start)),
            call.app or "-",
            call.platform,
            daemon,
        )
        for daemon, call in held[:20]
    ]
    caption = f"{waiting} waiting; the newest first; times are UTC"
    return table(caption, ("account", "since", "app", "platform", "daemon"), rows)


def _daemons(overview: Overview) -> Markup:
    rows: list[tuple[Child, ...]] = [
        (report.daemon, report.version or "-", state(report.health), report.waiting)
        for report in overview.daemons
    ]
    caption = f"Daemons; {overview.calls_per_second:.2f} calls a second in the last minutes"
    return table(caption, ("daemon", "version", "health", "held calls"), rows)


def _dependencies(overview: Overview) -> Markup:
    pairs: list[tuple[str, Child]] = [
        (name, state("up" if up else "down")) for name, up in overview.dependencies.items()
    ]
    if overview.silent_devices is not None:
        pairs.append(("silent devices", overview.silent_devices))
    return facts(pairs)


def _providers(overview: Overview) -> Markup:
    rows: list[tuple[Child, ...]] = [
        (app.app, app.platform, _connections(app), _expiry(app), app.devices)
        for app in overview.apps
        if app.configured
    ]
    if not rows:
        return element("p", _NO_APPS, class_="empty")
    head = ("app", "platform", "connections of this daemon", "credential expires", "devices")
    return table("Providers and credentials; devices are counted every 20 s", head, rows)


def _connections(app: AppFigures) -> Markup:
    parts: list[Child] = []
    for (environment, word), count in sorted(app.connections.items()):
        if count:
            parts += [f"{environment}: ", count, " ", state(word), element("br")]
    return joined(*parts[:-1]) if parts else joined("none")


def _expiry(app: AppFigures) -> Child:
    if app.expires is None:
        return "does not expire" if app.configured else "-"
    return moment(app.expires)


_NO_APPS = (
    "No app is configured. Add a section [app:APP_ID:apns] or [app:APP_ID:android], check it with"
    " middlewared check, and reload with SIGHUP."
)


def _past(overview: Overview) -> Markup:
    calls = sum(count for _, count, _ in overview.slots)
    if not calls:
        text = (
            "No call has ended in the last six hours. Place one from the page of an account, or"
            " check that the PBX sends its calls here ([http] pbx_networks)."
        )
        return element("p", text, class_="empty")
    answered = sum(count for *_, count in overview.slots)
    bars = [
        (time_text(start)[11:16] if start % 3600 == 0 else "", count)
        for start, count, _ in overview.slots
    ]
    spoken = ", ".join(
        f"{time_text(at)[11:16]} {count}" for at, count, _ in overview.slots if count
    )
    charts = [
        element(
            "div",
            element("h3", f"Calls by time (UTC): {calls}, answered {answered}"),
            histogram(f"Calls in ten minutes from: {spoken}", bars),
        )
    ]
    charts += [_wakeups(app) for app in overview.apps if app.wakeups]
    return joined(element("div", *charts, class_="charts"), _outcomes(overview.apps))


def _wakeups(app: AppFigures) -> Markup:
    title = f"Wake-up times of {app.app} ({app.platform}), seconds"
    return element("div", element("h3", title), wakeup_histogram(app))


def wakeup_histogram(app: AppFigures) -> Markup:
    """How long the phones of an app took from the push to the answer."""
    bars = [
        ("more" if label == "inf" else f"≤{float(label):g}", app.wakeups.get(label, 0))
        for label in WAKEUP_LABELS
    ]
    spoken = ", ".join(f"{label}: {count}" for label, count in bars if count)
    return histogram(f"Answered calls by wake-up time in seconds: {spoken or 'none'}", bars)


def _outcomes(apps: Iterable[AppFigures]) -> Markup:
    rows: list[tuple[Child, ...]] = [
        (
            app.app or "no device",
            app.platform,
            joined(*_counts(app, app.recent)) if app.recent else "-",
            joined(*_counts(app, app.outcomes)),
            median_text(app.wakeups),
        )
        for app in sorted(apps, key=lambda app: not app.app)  # those without a device last
        if app.outcomes
    ]
    head = ("app", "platform", "last minutes", "last six hours", "half woke within")
    return table("Outcomes by app and platform", head, rows)


def _counts(app: AppFigures, outcomes: Mapping[str, int]) -> Iterable[Child]:
    """Outcomes and how often each was, with a link to the newest of these calls."""
    filters = {"app": app.app, "platform": app.platform} if app.app else {}
    ordered = sorted(outcomes.items(), key=lambda each: -each[1])
    for outcome, count in ordered:
        href = f"/calls?{urlencode({'outcome': outcome, **filters})}"
        label = f"{count} calls: {outcome}"
        link = element("a", count, href=href, aria_label=label)
        yield element("div", state(outcome), " ", link, class_="count")


def median_text(wakeups: Mapping[str, int]) -> str:
    """How long half of the phones took at most."""
    median = median_wakeup(wakeups)
    if median is None:
        return "-"
    return f"more than {WAKEUP_LABELS[-2]} s" if median == "inf" else f"{float(median):g} s"


def apps_page(overview: Overview, user: str) -> bytes:
    """The apps: their credentials, connections, phones and wake-up times."""
    shown = [app for app in overview.apps if app.platform != "none"]
    parts: list[Child] = [element("h1", "Apps")]
    if not shown:
        parts.append(element("p", _NO_APPS, class_="empty"))
    for number, app in enumerate(shown):
        parts.append(section(f"{app.app} ({app.platform})", _app(app), id=f"app-{number}"))
    return page("Apps", *parts, user=user)


def _app(app: AppFigures) -> Markup:
    configured = state("ok") if app.configured else joined(state("missing"), ": add its section")
    pairs: list[tuple[str, Child]] = [
        ("configuration", configured),
        ("credential expires", _expiry(app)),
        ("devices, counted every 20 s", app.devices),
        ("connections of this daemon", _connections(app)),
        ("half of the phones woke within", median_text(app.wakeups)),
        (
            "calls of the last six hours",
            joined(*_counts(app, app.outcomes)) if app.outcomes else "none",
        ),
    ]
    charts = []
    if app.wakeups:
        charts = [
            element("h3", "Wake-up times of the last six hours, seconds"),
            wakeup_histogram(app),
        ]
    return joined(facts(pairs), *charts)
