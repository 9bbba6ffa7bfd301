"""What a date in a question means: the span of time from what a pattern of `dates.py` has matched.

dateutil parses the days and months, and reckons with them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dateutil import parser
from dateutil.relativedelta import FR, MO, SA, SU, TH, TU, WE, relativedelta

SECONDS_PER_DAY = 86_400.0
DAY, WEEK, MONTH, YEAR = (
    relativedelta(days=1),
    relativedelta(weeks=1),
    relativedelta(months=1),
    relativedelta(years=1),
)
UNITS = {"day": DAY, "week": WEEK, "month": MONTH, "year": YEAR}
NUMBERS = {
    "a": 1, "an": 1, "one": 1, "couple of": 2, "a couple of": 2, "two": 2, "a few": 3, "few": 3, "three": 3, "four": 4,
    "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
# Seasons of the northern half: the first of three months.
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
WEEKDAYS = {
    "monday": MO, "tuesday": TU, "wednesday": WE, "thursday": TH, "friday": FR, "saturday": SA, "sunday": SU
}  # fmt: skip


@dataclass(frozen=True)
class DateSpan:
    """From `start` up to `end`, which is not in it; both aware. None is open on that side."""

    start: datetime | None
    end: datetime | None

    def days_outside(self, moment: datetime) -> float:
        """How many days `moment` is before or after the span; 0 inside."""
        if self.start is not None and moment < self.start:
            return (self.start - moment).total_seconds() / SECONDS_PER_DAY
        if self.end is not None and moment >= self.end:
            return (moment - self.end).total_seconds() / SECONDS_PER_DAY
        return 0.0


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _span(start: datetime, length: relativedelta) -> list[DateSpan]:
    return [DateSpan(start, start + length)]


def _parsed(text: str, now: datetime, *, dayfirst: bool = False) -> datetime:
    """The midnight that `text` names; a day or month that it leaves out is the first. Raises ValueError."""
    default = _midnight(now).replace(month=1, day=1)
    return parser.parse(text, default=default, ignoretz=True, dayfirst=dayfirst).replace(tzinfo=now.tzinfo)


def _recent(text: str, now: datetime) -> datetime:
    """The last time not after `now` that a day or month without a year came to be. Raises ValueError where none has."""
    for year in range(now.year, now.year - 9, -1):
        try:
            moment = _parsed(f"{text} {year}", now)
        except ValueError:
            continue  # 29 February
        if moment <= now:
            return moment
    raise ValueError("no such day")


def _iso(found: re.Match[str], now: datetime) -> list[DateSpan]:
    text = found["iso"]
    return _span(_parsed(text, now), DAY) if len(text) > 7 else _span(_parsed(f"{text}-01", now), MONTH)


def _figures(found: re.Match[str], now: datetime) -> list[DateSpan]:
    """Which of two figures is the day nobody can know, so both count; with dots the day is first."""
    spans = []
    for dayfirst in (True, False) if "/" in found[0] else (True,):
        spans += _span(_parsed(found[0], now, dayfirst=dayfirst), DAY)
    return spans


def _days(found: re.Match[str], now: datetime) -> list[DateSpan]:
    if found["days"]:
        first, last, month, year = found.group("first", "last", "days_month", "days_year")
    else:
        first, last, month, year = found.group("m_first", "m_last", "of_month", "m_year")
    start = _parsed(f"{first} {month} {year}", now) if year else _recent(f"{first} {month}", now)
    end = _parsed(f"{last} {month} {start.year}", now) + DAY
    return [DateSpan(start, end)] if end > start else []


def _day(found: re.Match[str], now: datetime) -> list[DateSpan]:
    text = re.sub(r"\b(?:of|the|in)\b", " ", found[0], flags=re.IGNORECASE)
    return _span(_parsed(text, now) if found["day_year"] else _recent(text, now), DAY)


def _month_year(found: re.Match[str], now: datetime) -> list[DateSpan]:
    text = re.sub(r"\b(?:of|in)\b|,", " ", found[0], flags=re.IGNORECASE)
    return _span(_parsed(f"1 {text}", now), MONTH)


def _month(found: re.Match[str], now: datetime) -> list[DateSpan]:
    start, which = _recent(f"1 {found['month_name']}", now), found["month_which"].lower()
    if which == "next":
        start += YEAR
    elif which == "last" and now < start + MONTH:
        start -= YEAR
    return _span(start, MONTH)


def _season(found: re.Match[str], now: datetime) -> list[DateSpan]:
    name, which, year = found["season_name"].lower(), (found["season_which"] or "").lower(), found["season_year"]
    first, three_months = _midnight(now).replace(month=SEASONS[name], day=1), relativedelta(months=3)
    if year:
        start = first.replace(year=int(year))
        # "Winter 2023" is the one that ends in it, or the one that begins.
        return (_span(start - YEAR, three_months) if name == "winter" else []) + _span(start, three_months)
    if not which or (name == "fall" and which == "the"):
        return []
    while first > now or (which == "last" and first + three_months > now):
        first -= YEAR
    return _span(first, three_months)


def _year(found: re.Match[str], now: datetime) -> list[DateSpan]:
    return _span(_midnight(now).replace(year=int(found["year_number"]), month=1, day=1), YEAR)


def _count(text: str) -> int:
    words = " ".join(text.lower().split())
    return NUMBERS[words] if words in NUMBERS else int(words)


def _ago(found: re.Match[str], now: datetime) -> list[DateSpan]:
    """As long as its unit, around the day that is counted back to."""
    unit = UNITS[found["ago_unit"].lower()]
    middle = _midnight(now) - unit * _count(found["ago_number"])
    half = ((now + unit) - now) / 2
    return _span(middle, DAY) if unit == DAY else [DateSpan(middle - half, middle + half)]


def _lately(found: re.Match[str], now: datetime) -> list[DateSpan]:
    return [DateSpan(now - UNITS[found["lately_unit"].lower()] * _count(found["lately_number"]), now)]


def _weekend(found: re.Match[str], now: datetime) -> list[DateSpan]:
    start = _midnight(now) + relativedelta(weekday=SA(-1))
    if found["weekend_which"].lower() == "last" and now < start + DAY * 2:
        start -= WEEK
    return _span(start, DAY * 2)


def _calendar(found: re.Match[str], now: datetime) -> list[DateSpan]:
    which, name = found["calendar_which"].lower(), found["calendar_unit"].lower()
    unit, today = UNITS[name], _midnight(now)
    if which == "past":
        return [DateSpan(now - unit, now)]
    start = {
        "week": today + relativedelta(weekday=MO(-1)), "month": today.replace(day=1),
        "year": today.replace(month=1, day=1),
    }[name]  # fmt: skip
    return _span(start - unit if which == "last" else start, unit)


def _weekday(found: re.Match[str], now: datetime) -> list[DateSpan]:
    today = _midnight(now) - (DAY if found["weekday_which"].lower() == "last" else relativedelta())
    return _span(today + relativedelta(weekday=WEEKDAYS[found["weekday_name"].lower()](-1)), DAY)


# By the name of the pattern's group. Each raises ValueError or OverflowError where there is no such date.
READERS: dict[str, Callable[[re.Match[str], datetime], list[DateSpan]]] = {
    "iso": _iso,
    "figures": _figures,
    "days": _days,
    "month_days": _days,
    "day": _day,
    "month_year": _month_year,
    "season": _season,
    "month": _month,
    "year": _year,
    "before_yesterday": lambda found, now: _span(_midnight(now) - DAY * 2, DAY),
    "today": lambda found, now: _span(_midnight(now), DAY),
    "yesterday": lambda found, now: _span(_midnight(now) - DAY, DAY),
    "ago": _ago,
    "lately": _lately,
    "weekend": _weekend,
    "calendar": _calendar,
    "weekday": _weekday,
}
