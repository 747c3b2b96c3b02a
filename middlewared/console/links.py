"""
What several pages share: links, times, tables of calls, the search box.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from markupsafe import Markup

from middlewared.console.markup import Child, element, joined, page, state, table
from middlewared.console.overview import time_text
from middlewared.history.interface import KeptCall


def moment(epoch_s: float | None) -> Child:
    """A time for people; "-": none."""
    if epoch_s is None:
        return "-"
    written = time_text(epoch_s)
    return element("time", written.replace("T", " ").replace("Z", " UTC"), datetime=written)


def call_path(unique_key: str) -> str:
    """The address of a call."""
    return f"/calls/{quote(unique_key, safe='')}"


def account_path(sip_user_id: str, action: str = "") -> str:
    """The address of an account, or of something that is done with it."""
    return f"/accounts/{quote(sip_user_id, safe='')}{action}"


def call_link(unique_key: str, text: Child) -> Markup:
    """A link to a call."""
    return element("a", text, href=call_path(unique_key))


def account_link(sip_user_id: str) -> Markup:
    """A link to an account."""
    return element("a", sip_user_id, href=account_path(sip_user_id))


def search_box(text: str = "") -> Markup:
    """The one question that everyone begins with."""
    box = element(
        "input",
        type="search",
        name="q",
        id="q",
        value=text,
        maxlength=255,
        autocomplete="off",
        aria_describedby="q-help",
        aria_label="Why didn't the phone ring? Account, call_id, unique_key or number",
        placeholder="Account, call_id, unique_key or number",
    )
    form = element(
        "form", box, element("button", "Search"), class_="search", action="/", role="search"
    )
    help_text = "An account, a call_id, a unique_key, or a caller's number as far as it is kept."
    return joined(form, element("p", help_text, id="q-help", class_="quiet"))


def call_table(calls: Iterable[KeptCall], caption: str) -> Markup:
    """Calls as a table."""
    rows: list[tuple[Child, ...]] = [
        (
            call_link(call.record.unique_key, moment(call.record.start)),
            account_link(call.record.sip_user_id),
            state(call.record.outcome),
            call.record.phonenumber or "-",
            f"{call.record.app or 'no device'} ({call.record.platform})",
        )
        for call in calls
    ]
    return table(caption, ("start", "account", "outcome", "caller", "app"), rows)


def error_page(status: int, text: str, user: str = "") -> bytes:
    """Why there is no such page."""
    return page(
        text,
        element("h1", text),
        element("p", f"Status {status}. The search may help.", class_="quiet"),
        search_box() if user else None,
        user=user,
    )
