"""What a search has found, in columns, and in answer order."""

import math
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest

from memory.formats.moments import microseconds
from memory.retrieval.found import Found
from memory.retrieval.rank import Ranking

CREATED_AT = datetime(2026, 3, 1, 8, 30, 0, 123_456, tzinfo=UTC)


def found(*cosines: float, bm25=None, speakers=None) -> Found:
    rows = [
        ("0" * 64, uuid4().bytes, f"d{nth}", nth, "s", "t", 1, 2, microseconds(CREATED_AT), 3, 4, speaker, 1 - cosine)
        for nth, (cosine, speaker) in enumerate(zip(cosines, speakers or [None] * len(cosines), strict=True))
    ]
    return Found(rows, None if bm25 is None else np.array(bm25))


def ranking(**changes) -> Ranking:
    plain = {"dates": [], "speaker": None, "half_life_days": 30.0, "decay_weight": 0.0, "min_vector": None}
    return Ranking(**{"context": True, **plain, **changes})


def test_a_chunk_is_one_object_however_often_it_is_asked_for_and_has_what_its_row_says():
    some = found(0.9, 0.4, bm25=[0.0, 2.5], speakers=[None, 7])
    one = some.candidate(1)
    assert one is some.candidates()[1]
    assert (one.doc_id, one.chunk_index, one.source, one.thread_id, one.start, one.end) == ("d1", 1, "s", "t", 1, 2)
    assert (one.created_at, one.sequence, one.generation, one.speaker_id) == (CREATED_AT, 3, 4, 7)
    assert (one.vector, one.bm25, one.spread_bm25) == (pytest.approx(0.4), 2.5, None)
    assert one.chunk_id.bytes == some.rows[1][1]


@pytest.mark.parametrize("moment", [CREATED_AT, datetime(1815, 12, 10, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
def test_a_moment_is_its_microseconds(moment):
    some = found(0.5)
    some.rows[0] = (*some.rows[0][:8], microseconds(moment), *some.rows[0][9:])
    assert some.moment(0) == moment and some.created_at.tolist() == [microseconds(moment)]


def test_a_vector_without_a_direction_is_like_nothing():
    ranked = ranking().of(found(math.nan, 0.5, -0.3), 3)
    assert [(one.doc_id, one.fused) for one in ranked.best] == [("d1", 0.5), ("d0", 0.0), ("d2", 0.0)]


def test_scores_of_all_that_were_found_stay_in_their_places_whatever_is_dropped():
    ranked = ranking(min_vector=0.3).of(found(0.2, 0.9, 0.25, 0.4), 1)
    assert [one.doc_id for one in ranked.best] == ["d1"]
    assert ranked.fused.tolist() == pytest.approx([0.0, 0.9, 0.0, 0.4])


def test_what_context_moves_is_told_apart_from_what_was_fused():
    some = found(0.8, 0.6, speakers=[8, 7])
    ranked = ranking(speaker=7).of(some, 2)
    assert [(one.doc_id, one.fused) for one in ranked.best] == [("d1", pytest.approx(0.6)), ("d0", pytest.approx(0.52))]
    assert [one.context for one in ranked.best] == [0.0, pytest.approx(-0.28)]
    assert ranked.fused.tolist() == pytest.approx([0.8, 0.6])
    assert {one.context for one in ranking(speaker=7, context=False).of(found(0.8), 1).best} == {None}


@pytest.mark.parametrize("bm25", [None, []])
def test_nothing_found_is_nothing_ranked(bm25):
    ranked = ranking(min_vector=0.5).of(found(bm25=bm25), 10)
    assert ranked.best == [] and len(ranked.fused) == 0
