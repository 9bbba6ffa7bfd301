"""Long runs of combining marks are cut before a text is normalised for matching."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.formats.combining_marks import MARKS_MAX, stream_safe
from memory.language.entities import Mention, merge
from memory.lexical.terms import terms
from memory.retrieval.phrases import folded

# The last two have combining class 0 themselves, but come apart into marks.
MARKS = "\u0301\u0316\u0327\u3099\u0f73\uff9e"


def longest_run(text: str) -> int:
    longest = run = 0
    for char in unicodedata.normalize("NFKD", text):
        run = run + 1 if unicodedata.combining(char) else 0
        longest = max(longest, run)
    return longest


@given(st.text(st.sampled_from(MARKS + "ae\u00e9\u1f82 "), max_size=300))
def test_no_run_is_long_whatever_the_text(text):
    # Up to three more come out of the letter before the run, and each character of it is at most two marks.
    assert longest_run(stream_safe(text)) <= 2 * MARKS_MAX + 3


@given(st.text(max_size=MARKS_MAX))
def test_a_text_without_a_long_run_stays_as_it_is(text):
    assert stream_safe(text) == text


@pytest.mark.parametrize("mark", MARKS)
def test_of_a_run_the_first_thirty_stay(mark):
    assert stream_safe(f"a{mark * 30}b") == f"a{mark * 30}b"
    assert stream_safe(f"a{mark * 31}b{mark * 500}") == f"a{mark * 30}b{mark * 30}"


def test_texts_that_no_normaliser_takes_pass_through():
    assert stream_safe("\ud800" + "\u0301" * 40) == "\ud800" + "\u0301" * 30
    assert stream_safe("\U0010ffff" * 50) == "\U0010ffff" * 50


def test_what_is_matched_is_the_same_with_thirty_marks_as_with_thousands():
    short, long = (f"caf{'e' + mark}" for mark in ("\u0316" * 30, "\u0316\u0301" * 2_000))
    assert len(folded(long)) <= len(short)
    assert max(map(len, terms(long))) <= len(short)
    assert len(merge([Mention("A" + "\u0316" * count, "ORG", 0, 0) for count in (30, 4_000)])) == 1
