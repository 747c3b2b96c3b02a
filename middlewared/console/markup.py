"""
HTML elements whose texts are safe by construction, and the frame of every page.

Every text that is not markup already is escaped for HTML, and what would not be visible in it
(control characters, marks that change the direction of text) is shown as an escape. MarkupSafe
does it in C: for a table of 400 links twisted.web.template takes 8 to 16 ms, in one turn of the
event loop that calls need, and this 2 ms.
"""

from __future__ import annotations

from typing import TypeAlias

from markupsafe import Markup, escape

from middlewared.quoting import escaped

Child: TypeAlias = "Markup | str | int | float | None"

_VOID = frozenset({"input", "meta", "link", "br", "rect", "line", "circle", "path"})
_ROOT = '<!DOCTYPE html>\n<html lang="en">'


_SHORT = 16
_PAGES = (("Overview", "/"), ("Calls", "/calls"), ("Apps", "/apps"))


def element(
    name: str, /, *children: Child, **attributes: str | int | float | bool | None
) -> Markup:
    """
    One element.

    :param children: None: left out.
    :param attributes: ``class_`` is "class", "aria_label" is "aria-label"; True: an attribute
        without a value; None and False: left out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        parts.append(f" {written}" if value is True else f' {written}="{_safe(value)}"')
    parts.append(">")
    if name not in _VOID:
        parts += [_safe(child) for child in children if child is not None]
        parts.append(f"</{name}>")
    elif name in {"rect", "line", "circle", "path"}:
        parts[-1] = "/>"
    return Markup("".join(parts))  # noqa: S704 - made of safe parts


def joined(*children: Child) -> Markup:
    """Elements and texts in order."""
    return Markup("".join(_safe(child) for child in children if child is not None))  # noqa: S704


def _safe(value: Markup | str | float) -> str:
    if isinstance(value, Markup):
        return value
    return escape(escaped(value)) if isinstance(value, str) else str(value)


def page(
    title: str, *main: Child, user: str = "", live: str | None = None, refresh: bool = False
) -> bytes:
    """
    A whole page.

    :param live: where its parts come from while it is open.
    :param refresh: without JavaScript it is loaded again every few seconds.
    """
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · middlewared"),
        element("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        element("link", rel="stylesheet", href="/static/console.css"),
        element("script", src="/static/console.js", defer=True),
    ]
    if refresh:
        again = element("meta", http_equiv="refresh", content="3")
        head.append(element("noscript", again))
    body = [
        element("a", "Skip to content", class_="skip", href="#main"),
        element(
            "header",
            element("a", "middlewared", class_="brand", href="/"),
            element(
                "nav",
                *(
                    element("a", name, href=path, aria_current="page" if name == title else None)
                    for name, path in _PAGES
                ),
                aria_label="Pages",
            ),
            element("span", user, class_="user") if user else None,
        ),
        element("main", *main, id="main", tabindex="-1", data_live=live),
    ]
    document = f"{_ROOT}<head>{joined(*head)}</head><body>{joined(*body)}</body></html>\n"
    return document.encode("utf-8", "replace")


def table(caption: str, head: tuple[str, ...], rows: list[tuple[Child, ...]]) -> Markup:
    """A table that becomes a list of cards on narrow screens."""
    titles = [element("th", title, scope="col") for title in head]
    lines = [
        element(
            "tr",
            *(
                element("td", element("div", cell, class_=short(cell)), data_title=title)
                for title, cell in zip(head, row, strict=True)
            ),
        )
        for row in rows
    ]
    return element(
        "table",
        element("caption", caption, class_="quiet"),
        element("thead", element("tr", *titles)),
        element("tbody", *lines),
    )


def short(cell: Child) -> str | None:
    """The class of a text that is not broken into lines: long ones make room for it."""
    is_short = isinstance(cell, str) and not isinstance(cell, Markup) and len(cell) <= _SHORT
    return "short" if is_short else None


def facts(pairs: list[tuple[str, Child]]) -> Markup:
    """Names and their values."""
    parts = [
        element("div", element("dt", name), element("dd", "-" if value in (None, "") else value))
        for name, value in pairs
    ]
    return element("dl", *parts)


def section(title: str, *children: Child, id: str) -> Markup:
    """A part of a page, with its heading."""
    return element(
        "section", element("h2", title, id=f"{id}-title"), *children, aria_labelledby=f"{id}-title"
    )


# A word and a shape beside each colour, for those who do not see colours.
_STATES = {
    **dict.fromkeys(("answered", "accepted", "ok", "up", "ready", "registered"), ("good", "●")),
    **dict.fromkeys(
        ("unavailable", "hung-up", "cancelled", "uncertain", "lost-account-notice"), ("calm", "◐")
    ),
    **dict.fromkeys(("draining", "starting", "connecting", "replaced", "waiting"), ("calm", "◔")),
    **dict.fromkeys(("timeout", "degraded", "token-suspect", "temporary"), ("warn", "▲")),
    **dict.fromkeys(("no-device", "overloaded", "lost", "unknown", "on"), ("warn", "▲")),
}


def state(word: str) -> Markup:
    """A state as word, shape and colour."""
    kind, shape = _STATES.get(word, ("bad", "■"))
    mark = element("span", shape, aria_hidden="true", class_="shape")
    return element("span", mark, " ", word, class_=f"state {kind}")
