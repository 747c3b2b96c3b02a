"""
The table at the end: how each call ended, and how fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import attrs

from middlewared.demo.screen import Screen, Style

_COLUMNS = f"{'outcome':<11}  {'PBX':<3}  {'wake-up':>8}  {'total':>8}"
_LONGEST_TITLE = 36


@attrs.frozen
class Ending:
    """
    How a call ended; times in seconds.

    ``reply``: the body that the PBX got. ``wakeup_s``: from the first push that was
    delivered to the answer; None: there was none. ``ack_ms``: milliseconds of the daemon from
    the phone's answer to its reply; None: no phone decided the call. ``expected``: whether it
    ended so.
    """

    number: str
    title: str
    outcome: str
    reply: str
    wakeup_s: float | None
    ack_ms: float | None
    total_s: float
    expected: bool


def show_summary(screen: Screen, endings: Sequence[Ending]) -> None:
    """Print the table, and how long an answer needs to reach the PBX."""
    room = min(_LONGEST_TITLE, screen.width - len(_COLUMNS) - 6)
    screen.line(f"{'#':>2}  {'scene':<{room}}  {_COLUMNS}", Style.FAINT)
    for ending in endings:
        style = Style.RED
        if ending.expected:
            style = Style.GREEN if ending.reply == "status=ACK" else Style.PLAIN
        title = ending.title if len(ending.title) <= room else f"{ending.title[: room - 2]}.."
        outcome = screen.styled(f"{ending.outcome:<11}", style)
        cells = (
            f"{ending.reply.removeprefix('status='):<3}",
            f"{_milliseconds(ending.wakeup_s):>8}",
            f"{_milliseconds(ending.total_s):>8}",
        )
        screen.line(f"{ending.number:>2}  {title:<{room}}  {outcome}  {'  '.join(cells)}")
    screen.line()
    screen.text(
        "wake-up: from the first push to the phone's answer; total: what the PBX waited.",
        Style.FAINT,
    )
    acks = [ending.ack_ms for ending in endings if ending.ack_ms is not None]
    if acks:
        screen.text(
            f"From a phone's answer to the reply to the PBX: {median(acks):.1f} ms in the daemon"
            f" (median of {len(acks)}; Server-Timing)."
        )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"
