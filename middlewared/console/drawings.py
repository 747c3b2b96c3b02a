"""
Drawings as SVG, made here: none needs a script, and each has a label with its content in words.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from middlewared.console.markup import element, joined
from middlewared.history.call_story import Moment, duration

_WIDTH = 360
_ROW = 30
_CUT = 48
_NUMBER_WIDTH = 24


def time_line(moments: Sequence[Moment], wait_ms: float) -> Markup:
    """
    The moments of a call one below the other, each with the time that it took as a bar.

    What the app reported later is in the text only: it would leave no width for the call.

    :param wait_ms: how long the phone had to answer, marked by a line; 0.0: not known.
    """
    drawn = [moment for moment in moments if moment.kind != "report"]
    whole = max([wait_ms, *(moment.after_ms for moment in drawn), 1.0])
    height = len(drawn) * _ROW + 24
    scale = (_WIDTH - 8) / whole
    rows = []
    for number, moment in enumerate(drawn):
        top = number * _ROW
        end = 4 + max(0.0, moment.after_ms) * scale
        begin = min(end - 3, 4 + max(0.0, moment.after_ms - moment.took_ms) * scale)
        what = moment.what if len(moment.what) <= _CUT else f"{moment.what[: _CUT - 1]}…"
        rows.append(element("text", what, x=4, y=top + 13, class_="what"))
        rows.append(
            element(
                "rect",
                x=f"{max(0.0, begin):.1f}",
                y=top + 17,
                width=f"{end - max(0.0, begin):.1f}",
                height=7,
                rx=2,
                class_=f"bar {moment.kind}",
            )
        )
    limit = f"{4 + wait_ms * scale:.1f}"
    axis = joined(
        element("line", x1=4, y1=height - 20, x2=_WIDTH - 4, y2=height - 20, class_="axis"),
        element("line", x1=limit, y1=0, x2=limit, y2=height - 20, class_="limit")
        if wait_ms
        else None,
        element("text", "0", x=4, y=height - 6, class_="tick"),
        element(
            "text", duration(whole), x=_WIDTH - 4, y=height - 6, text_anchor="end", class_="tick"
        ),
    )
    spoken = "; ".join(f"{duration(max(0.0, m.after_ms))}: {m.what}" for m in moments)
    return _svg(f"Time-line. {spoken or 'Nothing has happened yet.'}", height, axis, *rows)


def histogram(spoken: str, bars: Sequence[tuple[str, int]]) -> Markup:
    """
    How often each value occurred; the labels stand below the bars, the numbers above them.
    Of bars too narrow for that only the highest has its number.

    :param spoken: the same in words, the drawing's label.
    """
    most = max([count for _, count in bars] + [1])
    wide = (_WIDTH - 8) / max(1, len(bars))
    highest = next((number for number, (_, count) in enumerate(bars) if count == most), None)
    parts = [element("line", x1=4, y1=84, x2=_WIDTH - 4, y2=84, class_="axis")]
    for number, (label, count) in enumerate(bars):
        tall = 62 * count / most
        left, middle = 4 + number * wide, 4 + (number + 0.5) * wide
        if count:
            parts.append(
                element(
                    "rect",
                    x=f"{left + 1:.1f}",
                    y=f"{84 - tall:.1f}",
                    width=f"{wide - 2:.1f}",
                    height=f"{tall:.1f}",
                    class_="bar daemon",
                )
            )
        at = {"x": f"{middle:.1f}", "text_anchor": "middle", "class_": "tick"}
        if middle < 14:  # else it would be cut off
            at.update(x="4", text_anchor="start")
        elif middle > _WIDTH - 18:
            at.update(x=f"{_WIDTH - 4}", text_anchor="end")
        if label:
            parts.append(element("text", label, y=97, **at))
        if count and (wide >= _NUMBER_WIDTH or number == highest):
            parts.append(element("text", count, y=f"{80 - tall:.1f}", **at))
    return _svg(spoken, 102, *parts)


def _svg(spoken: str, height: int, *parts: Markup) -> Markup:
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=spoken,
        class_="drawing",
    )
