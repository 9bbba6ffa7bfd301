"""The dates that a question names, as spans of time: "on 8 May", "in May 2023", "last summer", "two weeks ago".

English, ISO 8601 and figures. One cheap pattern first looks for any word of time; only a question that has one is read
further, by fixed patterns, and dateutil parses no more than what they matched. What is not understood is
no date: a date never filters. Pure.
"""

from __future__ import annotations

import re
from datetime import datetime

from memory.retrieval.date_spans import NUMBERS, READERS, SEASONS, WEEKDAYS, DateSpan

# What is read of a question, and taken from it.
READ_MAX_CHARS = 2_000
SPANS_MAX = 8
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip

_AMBIGUOUS = re.compile(r"\b(?:may|march|mar)\b")  # in small letters they are more often other words
_MONTH = "(?:" + "|".join(rf"{month[:3]}(?:{month[3:]})?" for month in MONTHS if month not in ("may", "september"))
_MONTH += r"|may|sep(?:t(?:ember)?)?)\b\.?"
_DAY = r"(?:[12][0-9]|3[01]|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:19|20)[0-9]{2}"
_SEASON = "|".join(SEASONS)
_WEEKDAY = "|".join(WEEKDAYS)
_NUMBER = "|".join(number.replace(" ", r"\s") for number in sorted(NUMBERS, key=len, reverse=True)) + "|[1-9][0-9]{0,2}"
_UNIT = "day|week|month|year"
_TO = r"\s?(?:-|–|to|until)\s?"
_WHEN = "in|during|of|since|from|until|till|by|before|after|around|throughout|this|last|past|next|between|and|to"

# Whether there is anything to read: most questions end here.
_HINT = re.compile(
    rf"\d|\b(?:today|tonight|yesterday|ago|last|past|this|{_SEASON}|{_WEEKDAY}|{_MONTH})(?!\w)", re.IGNORECASE
)
# One alternative a kind of date, the longer first.
_DATE = re.compile(
    rf"""\b(?:
    (?P<iso>{_YEAR}-(?:1[0-2]|0[1-9])(?:-(?:3[01]|[12][0-9]|0[1-9]))?)
  | (?P<figures>[0-9]{{1,2}}[./][0-9]{{1,2}}[./]{_YEAR})
  | (?P<days>(?P<first>{_DAY}){_TO}(?P<last>{_DAY})\s(?:of\s)?(?P<days_month>{_MONTH})
        (?:,?\s(?:of\s)?(?P<days_year>{_YEAR}))?)
  | (?P<month_days>(?P<of_month>{_MONTH})\s(?P<m_first>{_DAY}){_TO}(?P<m_last>{_DAY})(?!\w)(?:,?\s(?P<m_year>{_YEAR}))?)
  | (?P<day>(?:{_DAY}\s(?:of\s)?{_MONTH}|{_MONTH}\s(?:the\s)?{_DAY}(?!\w))(?P<day_year>,?\s(?:of\s|in\s)?{_YEAR})?)
  | (?P<month_year>{_MONTH},?\s(?:of\s|in\s)?{_YEAR})
  | (?P<season>(?:(?P<season_which>last|this|past|in|(?:(?:in|during|over)\s)?the|that)\s)?(?P<season_name>{_SEASON})
        (?:\s(?:of\s)?(?P<season_year>{_YEAR}))?)
  | (?P<month>(?P<month_which>{_WHEN})\s(?:early\s|mid[\s-]?|late\s)?(?P<month_name>{_MONTH})(?!\s(?:the\s)?\d))
  | (?P<year>(?:{_WHEN}|year)\s(?P<year_number>{_YEAR})(?!-\d))
  | (?P<before_yesterday>the\sday\sbefore\syesterday)
  | (?P<today>today|tonight|this\s(?:morning|afternoon|evening))
  | (?P<yesterday>yesterday|last\s(?:night|evening))
  | (?P<ago>(?P<ago_number>{_NUMBER})\s(?P<ago_unit>{_UNIT})s?\sago)
  | (?P<lately>(?:last|past)\s(?P<lately_number>{_NUMBER})\s(?P<lately_unit>{_UNIT})s?)
  | (?P<weekend>(?P<weekend_which>last|this|past)\sweekend)
  | (?P<calendar>(?P<calendar_which>last|this|past)\s(?P<calendar_unit>week|month|year))
  | (?P<weekday>(?P<weekday_which>last|this|past|on)\s(?P<weekday_name>{_WEEKDAY}))
    )(?![\w/])""",
    re.IGNORECASE | re.VERBOSE,
)
_JOINS = re.compile(r"\s*,?\s*(?:and|to|until|till|through|-|–)?\s*(?:the\s)?", re.IGNORECASE)
_OPENS = re.compile(
    r"\b(?:since|after|before|until|till|between|from)\b(?=(?:\s(?:the|about|around))?\s*\Z)", re.IGNORECASE
)
_OPENING = ("since", "after", "before", "until", "till", "between", "from")


def dates_in(question: str, now: datetime) -> list[DateSpan]:
    """The spans that `question` names, at most SPANS_MAX, relative to `now` (aware); [] for most questions.

    A day or a month without a year is the most recent one not after `now`. "since", "after", "before", "until",
    "from .. to" and "between .. and" make one span of what they stand with.
    """
    question = question[:READ_MAX_CHARS]
    if not _HINT.search(question):
        return []
    spans: list[DateSpan] = []
    at, joins_from = 0, None
    for found in _DATE.finditer(question):
        if len(spans) >= SPANS_MAX:
            break
        gap = question[at : found.start()]
        said = found[0].split()[0].lower()
        joins = (
            spans
            and joins_from == at
            and _JOINS.fullmatch(gap)
            and (gap.strip() or said in ("and", "to", "until", "till"))
        )
        if (said in ("and", "to") and not joins) or _is_other_word(found, gap):
            continue
        try:
            read = READERS[found.lastgroup or ""](found, now)
        except (ValueError, OverflowError):
            continue
        if not read:
            continue
        opened = _OPENS.search(gap)
        opens = said if said in _OPENING else opened[0].lower() if opened else ""
        at, joins_from = found.end(), found.end() if opens in ("between", "from") else None
        if joins:
            spans[-1] = DateSpan(spans[-1].start, read[-1].end)
        else:
            spans += [_opened(span, opens) for span in read]
    return spans


def _opened(span: DateSpan, opens: str) -> DateSpan:
    """`span` as the word before it opens it to one side."""
    if opens in ("since", "after"):
        return DateSpan(span.start if opens == "since" else span.end, None)
    if opens in ("before", "until", "till"):
        return DateSpan(None, span.start if opens == "before" else span.end)
    return span


def _is_other_word(found: re.Match[str], before: str) -> bool:
    """Whether "may" or "march" in small letters is the verb: "this may be", "may 5 people come"."""
    if not _AMBIGUOUS.search(found[0]) or found["day_year"] or found["days"] or found["month_days"]:
        return False
    if found["day"]:
        return not re.search(r"\d(?:st|nd|rd|th)", found[0]) and not before.lower().endswith("on ")
    return bool(found["month"]) and found["month_which"].lower() in ("this", "and", "to", "by")
