"""
A call's time-line for people to read.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from middlewared.demo.screen import Screen, Style

_STYLES = {
    "PBX": Style.CYAN,
    "daemon": Style.BOLD,
    "Apple": Style.MAGENTA,
    "Google": Style.MAGENTA,
    "phone": Style.GREEN,
}


@attrs.frozen
class Event:
    """``who`` did ``what`` at a time in seconds of the reactor's clock."""

    at: float
    who: str
    what: str


def show_timeline(screen: Screen, events: Iterable[Event], *, began_at: float) -> None:
    """
    Print events by time.

    Each has its time since ``began_at`` and since the event above it, both in milliseconds.
    """
    before_at = None
    for event in sorted(events, key=lambda event: event.at):
        since = "before  " if event.at < began_at else f"{(event.at - began_at) * 1000:.1f} ms"
        took = "" if before_at is None else f"+{(event.at - before_at) * 1000:.1f}"
        show_event(screen, f"{since:>11} {took:>8}", event.who, event.what)
        before_at = None if event.at < began_at else event.at


def show_event(screen: Screen, when: str, who: str, what: str) -> None:
    """Print one event; what does not fit goes on below, behind the names."""
    head = f"  {when}  {who:<6}  "
    first, *others = screen.wrapped(what, len(head))
    name = screen.styled(f"{who:<6}", _STYLES.get(who, Style.PLAIN))
    screen.line(f"  {screen.styled(when, Style.FAINT)}  {name}  {first}")
    for line in others:
        screen.line(" " * len(head) + line)
