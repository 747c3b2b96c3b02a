"""A line chart as SVG, with nothing but the standard library."""

from __future__ import annotations

from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 60, 20, 90, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c")
HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
)


class Series(NamedTuple):
    """One line and its points."""

    name: str
    points: list[tuple[float, float]]


def chart(x_label: str, y_label: str, lines: list[Series]) -> str:
    """The chart; both axes begin at 0, so that a straight line through it means linear."""
    most_x = max(x for line in lines for x, _ in line.points)
    most_y = max(y for line in lines for _, y in line.points) * 1.05

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / most_x * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - y / most_y * (HEIGHT - TOP - BOTTOM), 1)

    parts = [HEAD]
    for part in range(6):
        x, y = most_x * part / 5, most_y * part / 5
        (across, bottom), (left, up) = at(x, 0), at(0, y)
        end = WIDTH - RIGHT
        parts.append(f'<path d="M{left} {up}H{end}" stroke="#ddd"/>')
        parts.append(_text(left - 6, up + 4, f"{y:.3g}", "end"))
        parts.append(_text(across, bottom + 18, f"{x:,.0f}", "middle"))
    for colour, (name, points) in zip(COLOURS, lines, strict=False):
        places = [at(*point) for point in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        parts.append(_text(x + 8, y + 4, name, "start", colour))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, "middle"))
    parts.append(
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        f"{y_label}</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str, colour: str = "black") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
