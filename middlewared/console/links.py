"""
What several pages share: links, times, tables of calls, the search box.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote

from markupsafe import Markup

from middlewared.console.markup import Child, element, joined, page, short, state, table
from middlewared.console.overview import time_text
from middlewared.history.interface import KeptCall


def moment(epoch_s: float | None) -> Child:
    """A time for people; "-": none."""
    if epoch_s is None:
        return "-"
    written = time_text(epoch_s)
    return element("time", written.replace("T", " ").replace("Z", " UTC"), datetime=written)


def table_moment(epoch_s: float) -> Markup:
    """The same in a table whose caption names the time zone."""
    written = time_text(epoch_s)
    return element("time", written.replace("T", " ").rstrip("Z"), datetime=written)


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
    return element("a", sip_user_id, href=account_path(sip_user_id), class_=short(sip_user_id))


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
    )
    form = element(
        "form", box, element("button", "Search"), class_="search", action="/", role="search"
    )
    help_text = "An account, a call_id, a unique_key, or a caller's number as far as it is kept."
    return joined(form, element("p", help_text, id="q-help", class_="quiet"))


def app_text(app: str, platform: str) -> str:
    """An app and its platform; of a call to an account without a device neither is known."""
    return f"{app} ({platform})" if app else "no device"


def call_table(calls: Iterable[KeptCall], caption: str) -> Markup:
    """Calls as a table."""
    rows: list[tuple[Child, ...]] = [
        (
            call_link(call.record.unique_key, table_moment(call.record.start)),
            account_link(call.record.sip_user_id),
            state(call.record.outcome),
            call.record.phonenumber or "-",
            app_text(call.record.app, call.record.platform),
        )
        for call in calls
    ]
    return table(caption, ("start", "account", "outcome", "caller", "app"), rows)


_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("This request cannot be read", "Change the address or the form, and try again."),
    401: ("Log in", "Load the page again, and enter your user name and password."),
    403: (
        "You may not do this",
        "Only users in [admin] operators may place test calls and remove devices, and only from"
        " the console's own pages.",
    ),
    404: ("Not found", "Search for the account, the call or the number instead."),
    405: ("Not possible here", "Go back to the page, and use its links and buttons."),
    429: ("Too many requests", "Wait a minute, and load the page again."),
    500: ("The console failed", "The daemon's log has the reason. Calls are not affected."),
    503: (
        "The daemon cannot answer now",
        "Its database may be away, or it is being stopped. Load the page again in some seconds.",
    ),
}


def error_page(status: int, text: str, user: str = "") -> bytes:
    """Why there is no such page, and what to do."""
    title, advice = _ERRORS.get(status, _ERRORS[400])
    return page(
        title,
        element("h1", title),
        element("p", text),
        element("p", advice),
        search_box() if user else None,
        element("p", f"HTTP status {status}", class_="quiet"),
        user=user,
    )
