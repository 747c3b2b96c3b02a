"""
The page about an account: its device, and what happened to it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import attrs
from markupsafe import Markup

from middlewared.calls.interface import OpenCall
from middlewared.console.account_reader import KnownAccount
from middlewared.console.links import (
    account_path,
    app_text,
    call_link,
    call_table,
    moment,
    table_moment,
)
from middlewared.console.markup import Child, element, facts, joined, page, section, state, table
from middlewared.history.interface import DeviceEvent
from middlewared.model import Device, Platform
from middlewared.quoting import fingerprint


@attrs.frozen(kw_only=True)
class AccountFacts:
    """What the page shows: what is known, and the calls that wait for the phone now."""

    sip_user_id: str
    known: KnownAccount
    held: Sequence[OpenCall]


def account_parts(shown: AccountFacts) -> Mapping[str, str]:
    """The parts of the page that change."""
    known = shown.known
    waiting = [call_link(each.unique_key, "A call waits for this phone now") for each in shown.held]
    calls: Child = element("p", _NO_CALLS, class_="empty")
    if known.calls:
        more = f"/calls?{urlencode({'q': shown.sip_user_id})}"
        calls = joined(
            call_table(known.calls, "The newest first; times are UTC"),
            element("p", element("a", "All its calls", href=more)),
        )
    return {
        "waiting": joined(*waiting[:1]),
        "device-now": _device(known.device, known.shared, known.last_answered),
        "calls-now": joined(calls),
        "events-now": _events(known.events),
    }


_NO_CALLS = (
    "No call to this account is kept. If it was called, check that the PBX sends its calls here."
)


def account_page(shown: AccountFacts, *, user: str, proof: str | None) -> bytes:
    """
    One account: its device and its past.

    :param proof: for the forms of an operator; None: the user may only look.
    """
    title = f"Account {shown.sip_user_id}"
    parts = {id: Markup(html) for id, html in account_parts(shown).items()}  # noqa: S704

    def part(id: str) -> Markup:
        return element("div", parts[id], id=id)

    actions = None if proof is None else _actions(shown.sip_user_id, shown.known.device, proof)
    return page(
        title,
        element("h1", title),
        element("p", parts["waiting"], id="waiting", role="status"),
        section("Device", part("device-now"), id="device"),
        actions,
        section("Last calls", part("calls-now"), id="calls"),
        section("Events of its devices", part("events-now"), id="events"),
        user=user,
        live=f"/live{account_path(shown.sip_user_id)}",
    )


def _device(device: Device | None, shared: bool, last_answered: float | None) -> Markup:
    if device is None:
        text = (
            "No phone is registered for this account. Ask its user to open the app and to log"
            " in; the events below show when a phone was removed, and why."
        )
        known = None if last_answered is None else facts([("last answered", moment(last_answered))])
        return joined(element("p", text, class_="empty"), known)
    dnd = joined(state("on"), ": it is not woken") if device.dnd else "off"
    is_apple = device.platform is Platform.APNS
    return facts(
        [
            ("app", app_text(device.app, device.platform.value)),
            ("name", device.name),
            ("app's version", device.client_version),
            ("system's version", device.os_version),
            ("push token (fingerprint)", fingerprint(device.token)),
            ("registered", moment(device.registered_at)),
            ("last seen", moment(device.last_seen)),
            ("last answered", moment(device.last_answered or last_answered)),
            ("last calls in a row without an answer", device.silent_streak),
            ("do not disturb", dnd),
            ("other accounts on this phone", "yes" if shared else "no"),
            *([("Apple's sandbox", "yes" if device.sandbox else "no")] if is_apple else []),
        ]
    )


def _actions(sip_user_id: str, device: Device | None, proof: str) -> Markup:
    hidden = element("input", type="hidden", name="proof", value=proof)
    test_call = element(
        "form",
        hidden,
        element("button", "Test call"),
        method="post",
        action=account_path(sip_user_id, "/test-call"),
    )
    if device is None:
        return element("div", test_call, class_="actions")
    token = element("input", type="hidden", name="token", value=fingerprint(device.token))
    remove = element(
        "form",
        hidden,
        token,
        element("p", "Its phone does not ring until its app registers it again."),
        element("button", "Remove this device", class_="second"),
        method="post",
        action=account_path(sip_user_id, "/remove"),
    )
    details = element("details", element("summary", "Remove the device"), remove)
    return element("div", test_call, details, class_="actions")


def _events(events: Sequence[DeviceEvent]) -> Markup:
    if not events:
        text = "No event is kept. Devices that are registered, replaced or removed appear here."
        return element("p", text, class_="empty")
    rows: list[tuple[Child, ...]] = [
        (
            table_moment(event.time),
            state(event.event),
            _why(event) or "-",
            app_text(event.app, event.platform) if event.app else "-",
            event.token or "-",
        )
        for event in events
    ]
    caption = "The newest first; times are UTC"
    return table(caption, ("time", "event", "why", "app", "token"), rows)


def _why(event: DeviceEvent) -> str:
    return ": ".join(filter(None, (_WHY.get(event.why, event.why), event.reason)))


_WHY = {
    "app": "by its app or SIP registrar",
    "token-dead": "its push token is no longer valid",
    "other-account": "",  # the reason names it
    "operator": "by an operator",
}
