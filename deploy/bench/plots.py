"""Line plots as SVG, without a library: a few series over one axis each, ticks, a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 30, 45
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a4b9d", "#8a6d1f", "#444444")
TICKS = 5

Point = tuple[float, float]


def line_plot(
    title: str, x_label: str, y_label: str, series: dict[str, Sequence[Point]], *, log_y: bool = False
) -> str:
    """An SVG document. `series`: by name its points, in the order in which they are joined."""
    points = [point for line in series.values() for point in line]
    if not points:
        points = [(0.0, 1.0)]
    x_most = max(x for x, _ in points) or 1.0
    y_most = max(y for _, y in points) or 1.0
    y_least = max(min(y for _, y in points), y_most / 1e6) if log_y else 0.0

    def x_at(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / x_most

    def y_at(y: float) -> float:
        if log_y:
            span = math.log(y_most / y_least) or 1.0
            share = math.log(max(y, y_least) / y_least) / span
        else:
            share = y / y_most
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>',
    ]
    for step in range(TICKS + 1):
        share = step / TICKS
        x = x_most * share
        y = y_least * (y_most / y_least) ** share if log_y else y_most * share
        parts.append(f'<text x="{x_at(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:.4g}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_at(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}" stroke="#dddddd"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">'
        f"{escape(y_label)}</text>"
    )
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        joined = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        at = TOP + 14 * (number + 1)
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{at}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
