"""Small charts as SVG, drawn here: no script, no style in the page, nothing from another host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 280, 64
# So many bars have their names below them; of more the name is said when pointed at.
NAMED_BARS, NAME_HEIGHT = 6, 14


@dataclass(frozen=True)
class Chart:
    """Bars with their names, oldest or biggest first; `said`: the same in one sentence, for who does not see it."""

    title: str
    bars: Sequence[tuple[str, float]]
    said: str
    unit: str = ""

    def svg(self) -> SafeString:
        """The chart, WIDTH by HEIGHT; each bar says its name and number when pointed at."""
        if not self.bars:
            return format_html('<p class="none">{}</p>', "nothing yet")
        highest = max((value for _, value in self.bars), default=0.0) or 1.0
        step = WIDTH / len(self.bars)
        drawn = format_html_join(
            "",
            '<rect x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>',
            (
                (
                    round(number * step, 2),
                    round(HEIGHT * (1 - value / highest), 2),
                    round(max(1.0, step - 2), 2),
                    round(HEIGHT * value / highest, 2),
                    name,
                    _said(value, self.unit),
                )
                for number, (name, value) in enumerate(self.bars)
            ),
        )
        names, height = SafeString(), HEIGHT
        if len(self.bars) <= NAMED_BARS:
            height += NAME_HEIGHT
            names = format_html_join(
                "",
                '<text x="{}" y="{}">{}</text>',
                ((round((number + 0.5) * step, 2), height - 2, name) for number, (name, _) in enumerate(self.bars)),
            )
        return format_html(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>',
            *(WIDTH, height, self.said, drawn, names),
        )


def _said(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:,.2f}"
    return f"{number} {unit}".strip()
