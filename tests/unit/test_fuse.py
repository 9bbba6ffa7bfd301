"""Two legs become one score: in bounds, whatever the order, and never against what both legs say."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.retrieval.fuse import fuse

unit = st.floats(0.0, 1.0)
bm25 = st.one_of(st.just(0.0), st.floats(0.001, 100.0))
legs = st.lists(st.tuples(unit, bm25), min_size=1, max_size=48)


@dataclass(frozen=True)
class Fused:
    vector: float
    bm25: float | None
    lexical: float | None
    fused: float


def fused(pairs) -> list[Fused]:
    """What comes of candidates with these (vector, BM25) scores; BM25 is None for all of them or for none."""
    vectors, hits = [np.array(column, object) for column in zip(*pairs, strict=True)]
    bm25 = None if None in hits else hits.astype(float)
    lexical, found = fuse(vectors.astype(float), bm25)
    words = [None] * len(pairs) if lexical is None else lexical.tolist()
    return [Fused(*pair, *both) for pair, both in zip(pairs, zip(words, found.tolist(), strict=True), strict=True)]


def scores(pairs) -> list[float]:
    return [candidate.fused for candidate in fused(pairs)]


@settings(deadline=None)
@given(legs)
def test_scores_stay_in_bounds(pairs):
    for candidate in fused(pairs):
        assert 0.0 <= candidate.fused <= 1.0
        assert 0.0 <= candidate.lexical <= 1.0


@settings(deadline=None)
@given(legs)
def test_a_fused_score_lies_between_its_two_legs(pairs):
    for candidate in fused(pairs) if any(score for _, score in pairs) else []:
        low, high = sorted([candidate.vector, candidate.lexical])
        assert low - 1e-12 <= candidate.fused <= high + 1e-12


@settings(deadline=None)
@given(legs, st.randoms())
def test_the_order_of_the_candidates_does_not_matter(pairs, random):
    places = list(range(len(pairs)))
    random.shuffle(places)
    straight, shuffled = scores(pairs), scores([pairs[place] for place in places])
    assert shuffled == [straight[place] for place in places]


@settings(deadline=None)
@given(legs)
def test_what_is_better_in_both_legs_is_never_below(pairs):
    candidates = fused(pairs)
    for a in candidates:
        for b in candidates:
            if a.vector >= b.vector and a.bm25 >= b.bm25:
                assert a.fused >= b.fused
                if a.vector > b.vector + 1e-6 or (a.lexical > b.lexical + 1e-6):
                    assert a.fused > b.fused


@settings(deadline=None)
@given(st.lists(unit, min_size=1, max_size=48), st.sampled_from([0.0, None]))
def test_without_a_lexical_hit_the_fused_score_is_the_vector_score(vectors, nothing):
    candidates = fused([(vector, nothing) for vector in vectors])
    assert [candidate.fused for candidate in candidates] == vectors
    assert {candidate.lexical for candidate in candidates} == {nothing}


@settings(deadline=None)
@given(legs, st.floats(0.01, 100.0))
def test_the_unit_of_bm25_does_not_matter(pairs, factor):
    assert scores([(vector, score * factor) for vector, score in pairs]) == pytest.approx(scores(pairs), abs=1e-9)


@pytest.mark.parametrize("bm25", [None, np.empty(0)])
def test_no_candidates_is_no_error(bm25):
    lexical, found = fuse(np.empty(0), bm25)
    assert len(found) == 0 and (lexical is None or len(lexical) == 0)


def test_the_same_text_in_the_same_words_scores_one():
    assert scores([(1.0, 17.3), (0.2, 0.0)])[0] == 1.0


def test_a_lone_candidate_scores_by_what_it_is():
    assert scores([(0.4, 0.0)]) == [0.4]
    assert scores([(0.4, 3.0)]) == [pytest.approx(0.6)]  # weights 2/3 and 1/3: the usual deviations


def test_two_candidates_whose_legs_disagree_are_no_tie():
    named, near = scores([(0.30, 5.0), (0.45, 0.0)])
    assert named > near
    slightly_named, much_nearer = scores([(0.10, 5.0), (0.90, 4.5)])
    assert much_nearer > slightly_named


def test_candidates_that_are_all_alike_score_alike():
    assert len(set(scores([(0.5, 2.0)] * 24))) == 1


def test_where_the_vectors_say_nothing_the_words_decide():
    low, high, middle = scores([(0.5, 1.0), (0.5, 3.0), (0.5, 2.0)])
    assert low < middle < high


def test_an_identifier_only_one_passage_holds_brings_it_first():
    topic = [(0.62 - place / 100, 0.0) for place in range(24)]
    assert max(fused([*topic, (0.35, 6.8)]), key=lambda candidate: candidate.fused).bm25 == 6.8


def test_the_formula_by_hand():
    # Deviations with 4 usual candidates beside the 2: sqrt((4 * 0.01 + 0.02) / 6) = 0.1 and
    # sqrt((4 * 0.04 + 0.125) / 6) = 0.217945; weight 0.1 / 0.317945 = 0.314520.
    better, worse = fused([(0.7, 8.0), (0.5, 4.0)])
    assert (better.lexical, worse.lexical) == (1.0, 0.5)
    assert better.fused == pytest.approx(0.685480 * 0.7 + 0.314520, abs=1e-5)
    assert worse.fused == pytest.approx(0.5, abs=1e-12)
