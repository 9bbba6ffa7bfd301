"""Centrality: what resembles the most comes first, and nothing is said twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.language.centrality import centrality, choose, similarities


def units(*rows) -> np.ndarray:
    vectors = np.asarray(rows, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# Three of one topic, its second in the middle of it; two of another; one alone.
TOPICS = units((1, 0.5, 0), (1, 0, 0), (1, -0.5, 0), (0, 0.2, 1), (0, 0.3, 1), (-1, 0, 0))


def test_the_middle_of_the_largest_topic_is_most_central():
    ranks = centrality(similarities(TOPICS))
    assert ranks.argmax() == 1
    assert ranks.argmin() == 5
    assert ranks.sum() == pytest.approx(1)


def test_a_prior_moves_the_centre_to_what_is_asked_about():
    asked = centrality(similarities(TOPICS), np.asarray([0, 0, 0, 1.0, 0, 0]))
    assert asked.argmax() == 3


def test_the_second_choice_is_of_another_topic():
    similar = similarities(TOPICS)
    chosen = choose(centrality(similar), similar, 2)
    assert chosen[0] == 1 and chosen[1] in (3, 4)


def test_a_copy_is_not_the_second_choice():
    copies = units((1, 0.1, 0), (1, 0.1, 0), (0.8, 0.6, 0.4), (0.7, 0.1, 0.7))
    similar = similarities(copies)
    chosen = choose(centrality(similar), similar, 4)
    assert sorted(chosen) == [0, 1, 2, 3]
    assert set(chosen[:2]) != {0, 1}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 2**32 - 1))
def test_any_vectors_give_a_distribution_and_distinct_choices(count, wanted, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, 5))
    similar = similarities(units(*vectors))
    ranks = centrality(similar, np.zeros(count) if seed % 2 else None)
    assert ranks.sum() == pytest.approx(1) and (ranks > 0).all()
    chosen = choose(ranks, similar, wanted)
    assert len(set(chosen)) == len(chosen) == min(count, wanted)


def test_passages_that_resemble_none_are_equally_central_and_come_in_order():
    alone = np.eye(4)
    assert centrality(similarities(alone)) == pytest.approx([0.25] * 4)
    assert choose(centrality(similarities(alone)), similarities(alone), 3) == [0, 1, 2]
