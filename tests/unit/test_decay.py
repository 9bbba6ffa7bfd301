"""Decay fades a score within its bounds; citations point at exact slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.retrieval.citations import Citation, cite
from memory.retrieval.decay import SECONDS_PER_DAY, decayed

unit = st.floats(0.0, 1.0)
ages = st.floats(-1e12, 1e15)


def test_half_of_the_weight_is_gone_after_a_half_life():
    assert decayed(1.0, 30 * SECONDS_PER_DAY) == pytest.approx(0.9, abs=1e-12)
    assert decayed(0.5, 60 * SECONDS_PER_DAY, weight=1.0) == pytest.approx(0.125, abs=1e-12)
    assert decayed(0.8, 7 * SECONDS_PER_DAY, half_life_days=7.0, weight=0.5) == pytest.approx(0.6)


def test_an_old_score_keeps_what_the_weight_leaves():
    assert decayed(0.7, 1e15, weight=0.2) == pytest.approx(0.56, abs=1e-12)


@settings(deadline=None)
@given(unit, ages)
def test_weight_zero_is_exactly_no_decay(score, age_seconds):
    assert decayed(score, age_seconds, weight=0.0) == score


@settings(deadline=None)
@given(unit, st.floats(-1e12, 0.0), unit)
def test_a_time_in_the_future_is_now(score, age_seconds, weight):
    assert decayed(score, age_seconds, weight=weight) == score


@settings(deadline=None)
@given(unit, ages, ages, unit, st.floats(1e-3, 1e4))
def test_scores_stay_in_bounds_and_never_grow_with_age(score, age, other_age, weight, half_life):
    newer, older = sorted([age, other_age])
    at_newer, at_older = (decayed(score, a, weight=weight, half_life_days=half_life) for a in (newer, older))
    assert 0.0 <= at_older <= at_newer <= score


@settings(deadline=None)
@given(st.lists(st.tuples(unit, ages), min_size=1, max_size=20))
def test_arrays_decay_as_their_elements_do(pairs):
    scores, age_seconds = (np.array(column) for column in zip(*pairs, strict=True))
    faded = decayed(scores, age_seconds)
    assert faded.shape == scores.shape
    assert faded.tolist() == pytest.approx([decayed(s, a) for s, a in pairs])


@pytest.mark.parametrize("bad", [{"weight": -0.1}, {"weight": 1.1}, {"weight": float("nan")}, {"half_life_days": 0.0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError):
        decayed(0.5, 10.0, **bad)


def test_a_citation_quotes_the_whole_slice():
    document = "Über alles: the kettle 🫖 is on."
    assert cite("d1", 2, 12, 24, document[12:24]) == Citation("d1", 2, 12, 24, "the kettle 🫖")


@pytest.mark.parametrize(("start", "end"), [(0, 4), (0, 6), (5, 5), (-5, 0), (5, 0)])
def test_a_quote_that_is_not_the_slice_is_refused(start, end):
    with pytest.raises(ValueError):
        cite("d1", 0, start, end, "quote" if start != end else "")
