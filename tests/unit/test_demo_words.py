"""What the demo says about answers that were not reranked."""

from __future__ import annotations

import pytest

from memory.maintenance.demo import NOT_RERANKED, STILL_LOADING, word_on_reranking


@pytest.mark.parametrize(
    ("skipped", "word"),
    [
        ({None}, ""),
        ({"deadline", None}, ""),
        ({"no_backend"}, NOT_RERANKED),
        ({"loading", None}, STILL_LOADING),
        ({"loading", "no_backend"}, NOT_RERANKED),
    ],
)
def test_it_says_why_once_and_what_to_do_and_nothing_where_answers_were_reranked(skipped, word):
    assert word_on_reranking(skipped) == word
    assert not word or "deploy/runbooks/gpu.md" in word
