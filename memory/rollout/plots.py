"""Plots of a canary run as inline SVG: one signal against the run's minutes, a line a variant, its limits drawn.

Colours and fonts are those of the page that holds them (classes `v0`, `v1`, `limit`, `watch`, `stage` and so on), so
that a plot is right in a light and in a dark one. Every text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 420, 232
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 22, 34
Y_TICKS, X_TICKS = 4, 6
# Of more values than this no dot is drawn.
DOTS_MAX = 80
# A tick every so many minutes.
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 240, 360, 720, 1440, 2880)

Point = tuple[float, float | None]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Mark:
    """A moment of the run: a stage that began, or a decision."""

    minute: float
    label: str
    is_decision: bool = False


@dataclass(frozen=True)
class Plot:
    """`lines`: by variant its (minute, value), None for a gap. Limits are in `unit`, too; `is_step`: as stairs."""

    title: str
    unit: str
    lines: Mapping[str, Sequence[Point]]
    rollback: float | None = None
    watch: float | None = None
    is_at_least: bool = False
    is_step: bool = False
    marks: Sequence[Mark] = field(default_factory=tuple)


def draw(plot: Plot, last_minute: float) -> str:
    """One `<svg>`, WIDTH by HEIGHT in its own units, as wide as what holds it. The first variant gets class `v0`."""
    low, high = _range(plot)
    x_most = max(last_minute, 1.0)

    def x_at(minute: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(minute / x_most, 0.0), 1.0)

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_spoken(plot))}">',
        f"<title>{escape(plot.title)}</title>",
    ]
    for value in _ticks(low, high):
        y = y_at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    parts += _time_axis(x_most, x_at)
    for name, limit in (("watch", plot.watch), ("limit", plot.rollback)):
        if limit is not None:
            y = y_at(limit)
            parts.append(f'<line class="{name}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += _limit_label(plot, y_at)
    for mark in plot.marks:
        x = x_at(mark.minute)
        kind = "decision" if mark.is_decision else "stage"
        is_late = x > WIDTH - 70
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="{kind}" x="{x + (-3 if is_late else 3):.1f}" y="{TOP - 8}"'
            f' text-anchor="{"end" if is_late else "start"}">{escape(mark.label)}</text>'
        )
    for number, (variant, points) in enumerate(plot.lines.items()):
        parts += _line(f"v{number}", variant, points, plot, x_at, y_at)
    return "".join([*parts, "</svg>"])


def _line(css: str, variant: str, points: Sequence[Point], plot: Plot, x_at: Scale, y_at: Scale) -> list[str]:
    """A polyline for each run of values without a gap, and a dot a value, which says its number when pointed at."""
    parts: list[str] = []
    runs: list[list[tuple[float, float]]] = [[]]
    for minute, value in points:
        if value is None:
            runs.append([])
            continue
        if plot.is_step and runs[-1]:
            runs[-1].append((minute, runs[-1][-1][1]))
        runs[-1].append((minute, value))
    for run in runs:
        joined = " ".join(f"{x_at(minute):.1f},{y_at(value):.1f}" for minute, value in run)
        if len(run) > 1:
            parts.append(f'<polyline class="{css}" points="{joined}"/>')
    for minute, value in points if len(points) <= DOTS_MAX else ():
        if value is not None:
            said = f"{variant}, minute {minute:g}: {_short(value)} {plot.unit}"
            parts.append(
                f'<circle class="{css}" cx="{x_at(minute):.1f}" cy="{y_at(value):.1f}" r="2.4">'
                f"<title>{escape(said)}</title></circle>"
            )
    return parts


def _range(plot: Plot) -> tuple[float, float]:
    """(lowest, highest) value drawn: from 0, or from just below all where what counts is near the top."""
    values = [value for points in plot.lines.values() for _, value in points if value is not None]
    values += [limit for limit in (plot.rollback, plot.watch) if limit is not None]
    if not values:
        return 0.0, 1.0
    if plot.is_at_least:
        span = max(max(values) - min(values), 0.5)
        return min(values) - span * 0.2, max(values) + span * 0.1
    return 0.0, max(values) * 1.1 or 1.0


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about Y_TICKS of them."""
    rough = (high - low) / Y_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.8)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _time_axis(x_most: float, x_at: Scale) -> list[str]:
    step = next((float(step) for step in STEPS if x_most / step <= X_TICKS), x_most / X_TICKS)
    in_hours = x_most > 600
    parts, minute = [], 0.0
    while minute <= x_most + 1e-9:
        said = f"{minute / 60:g}" if in_hours else f"{minute:g}"
        parts.append(f'<text x="{x_at(minute):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{said}</text>')
        minute += step
    middle = (LEFT + WIDTH - RIGHT) / 2
    unit = "hours" if in_hours else "minutes"
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{unit} of the run</text>')
    return parts


def _limit_label(plot: Plot, y_at: Scale) -> list[str]:
    """The limit's own words, on the side of its line where values are not."""
    value, name = (plot.rollback, "rolls back") if plot.rollback is not None else (plot.watch, "warns")
    if value is None:
        return []
    side = 11 if plot.is_at_least else -4
    sign = "below" if plot.is_at_least else "over"
    text = f"{name} {sign} {_short(value)} {plot.unit}".rstrip()
    css = "limit" if plot.rollback is not None else "watch"
    return [
        f'<text class="{css}" x="{WIDTH - RIGHT}" y="{y_at(value) + side:.1f}" text-anchor="end">{escape(text)}</text>'
    ]


def _spoken(plot: Plot) -> str:
    """The plot in a sentence, for who does not see it."""
    last = []
    for variant, points in plot.lines.items():
        values = [value for _, value in points if value is not None]
        if values:
            last.append(f"{variant} from {_short(min(values))} to {_short(max(values))} {plot.unit}".rstrip())
    return f"{plot.title}: {'; '.join(last) or 'nothing measured'}"


def _short(value: float) -> str:
    """Three digits that count, without an exponent."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "0" if text == "-0" else text
