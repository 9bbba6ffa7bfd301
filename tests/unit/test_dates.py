"""The dates that a question names, asked on Wednesday, 14 June 2023, at 15:00."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from memory.retrieval.date_spans import DateSpan
from memory.retrieval.dates import READ_MAX_CHARS, SPANS_MAX, dates_in

NOW = datetime(2023, 6, 14, 15, 0, tzinfo=UTC)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("question", "start", "end"),
    [
        ("What did we do on 8 May?", "2023-05-08", "2023-05-09"),
        ("What did we do on the 8th of May, 2022?", "2022-05-08", "2022-05-09"),
        ("Where was Anna on May 8, 2023, in the evening?", "2023-05-08", "2023-05-09"),
        ("what happened on may 8th", "2023-05-08", "2023-05-09"),
        ("Who called on 3 December?", "2022-12-03", "2022-12-04"),
        ("What was on 2023-05-08?", "2023-05-08", "2023-05-09"),
        ("What was on 08.05.2023?", "2023-05-08", "2023-05-09"),
        ("What happened on 29 February?", "2020-02-29", "2020-03-01"),
        ("Where did they go in May 2023?", "2023-05-01", "2023-06-01"),
        ("Where did they go in 2023-05?", "2023-05-01", "2023-06-01"),
        ("Where did they go in May?", "2023-05-01", "2023-06-01"),
        ("Where did they go in Sept.?", "2022-09-01", "2022-10-01"),
        ("Where did they go last June?", "2022-06-01", "2022-07-01"),
        ("What did she buy in 2021?", "2021-01-01", "2022-01-01"),
        ("Where were they last summer?", "2022-06-01", "2022-09-01"),
        ("Where are they this summer?", "2023-06-01", "2023-09-01"),
        ("The trip of summer 2021", "2021-06-01", "2021-09-01"),
        ("What did he say yesterday?", "2023-06-13", "2023-06-14"),
        ("What did he say today?", "2023-06-14", "2023-06-15"),
        ("And the day before yesterday?", "2023-06-12", "2023-06-13"),
        ("What was said three days ago?", "2023-06-11", "2023-06-12"),
        ("What was said last week?", "2023-06-05", "2023-06-12"),
        ("What was said last weekend?", "2023-06-10", "2023-06-12"),
        ("What was said on Monday?", "2023-06-12", "2023-06-13"),
        ("What was said last Wednesday?", "2023-06-07", "2023-06-08"),
        ("What was said last month?", "2023-05-01", "2023-06-01"),
        ("Between 3 May and 10 May?", "2023-05-03", "2023-05-11"),
        ("from May 3 to June 2nd, 2023", "2023-05-03", "2023-06-03"),
        ("from 2020 to 2022", "2020-01-01", "2023-01-01"),
        ("between January and March", "2023-01-01", "2023-04-01"),
        ("at the fair, May 8-10", "2023-05-08", "2023-05-11"),
        ("at the fair, 8 to 10 May 2022", "2022-05-08", "2022-05-11"),
        ("What has he said since March?", "2023-03-01", None),
        ("What has he said after 5 May 2023?", "2023-05-06", None),
        ("What did he say before 2022?", None, "2022-01-01"),
        ("What did he say until May?", None, "2023-06-01"),
    ],
)
def test_a_date_is_the_span_that_it_names(question, start, end):
    assert dates_in(question, NOW) == [DateSpan(start and day(start), end and day(end))]


@pytest.mark.parametrize(
    "question",
    [
        "When did Anna go to Paris with her brother?",
        "This may be wrong, and may I ask why?",
        "may 5 people come?",
        "We march to the sea.",
        "Which 3 books are about the fall of Rome?",
        "What happened on 31 June 2023?",
        "Order 4711 of 99/99/2023",
        "the last time he called",
        "spring water",
    ],
)
def test_what_is_no_date_is_none(question):
    assert dates_in(question, NOW) == []


def test_figures_that_can_be_read_in_two_ways_count_in_both():
    assert dates_in("5/8/2023", NOW) == [
        DateSpan(day("2023-08-05"), day("2023-08-06")), DateSpan(day("2023-05-08"), day("2023-05-09"))
    ]  # fmt: skip


def test_two_dates_are_two_spans():
    assert [span.start for span in dates_in("in May or in 2021?", NOW)] == [day("2023-05-01"), day("2021-01-01")]


def test_days_count_from_the_nearer_end_and_not_inside():
    span = DateSpan(day("2023-05-08"), day("2023-05-09"))
    assert span.days_outside(day("2023-05-08")) == span.days_outside(day("2023-05-08") + timedelta(hours=23)) == 0
    assert span.days_outside(day("2023-05-06")) == 2
    assert span.days_outside(day("2023-05-12")) == 3
    assert DateSpan(None, day("2023-05-08")).days_outside(day("1990-01-01")) == 0
    assert DateSpan(day("2023-05-08"), None).days_outside(day("2190-01-01")) == 0


@pytest.mark.parametrize("now", [datetime(1900, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, 23, 59, tzinfo=UTC)])
def test_no_present_is_too_early_or_too_late(now):
    for question in (
        "999 years ago",
        "last winter",
        "on 29 February",
        "in the last 999 years",
        "winter 1900",
        "in 2099",
    ):
        for span in dates_in(question, now):
            assert span.days_outside(now) >= 0


@pytest.mark.parametrize("word", ["9 ", "may ", "last ", "in 2 ", "1/1/2000 ", "between May and ", "x"])
def test_a_long_question_is_read_to_a_bound(word):
    assert len(dates_in((word * 8192)[:8192], NOW)) <= SPANS_MAX
    assert dates_in("x" * READ_MAX_CHARS + " in May", NOW) == []
