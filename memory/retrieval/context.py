"""What a conversation knows of its turns: neighbours, dates and speakers move a fused score.

1. Where any candidate has a neighbour in its thread, the BM25 scores are those with the neighbours' terms
   (`threads.py`), fused as before.
2. Where the question names dates (`dates.py`) and any candidate is in a thread, a row gains by its `created_at`:
   `+ 0.2 * exp(-days outside / 15)`.
3. Where the question is about one known speaker (`lexical/speakers.py`), a row of another one counts 0.65.

Nothing is filtered. Where none of these has a say, nothing changes, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from memory.retrieval.candidate import Candidate
from memory.retrieval.date_spans import DateSpan
from memory.retrieval.fuse import fused_scores

DATE_WEIGHT = 0.2
DATE_FADE_DAYS = 15.0
OTHER_SPEAKER = 0.65


def set_context(candidates: Sequence[Candidate], dates: Sequence[DateSpan], speaker: int | None) -> None:
    """Move each candidate's `fused` score, and say in `context` by how much; None stays where nothing has a say.

    `dates`: those in the question; `speaker`: the blind id of the one that it is about. Scores can pass 1, by
    DATE_WEIGHT at most, so that two of them still differ: `cap` ends that once they are in order.
    """
    has_neighbours = any(candidate.spread_bm25 is not None for candidate in candidates)
    has_dates = bool(dates) and any(candidate.thread_id is not None for candidate in candidates)
    if not has_neighbours and not has_dates and speaker is None:
        return
    scores = [candidate.fused for candidate in candidates]
    if has_neighbours:
        hits = [candidate.spread_bm25 or 0.0 for candidate in candidates]
        scores = fused_scores([candidate.vector for candidate in candidates], hits)
    for candidate, score in zip(candidates, scores, strict=True):
        if has_dates:
            days = min(span.days_outside(candidate.created_at) for span in dates)
            score += DATE_WEIGHT * math.exp(-days / DATE_FADE_DAYS)
        if speaker is not None and candidate.speaker_id not in (None, speaker):
            score *= OTHER_SPEAKER
        candidate.context = score - candidate.fused
        candidate.fused = score


def cap(candidate: Candidate) -> None:
    """Make what `set_context` has moved, and the score after decay, 1 at most."""
    if candidate.context is not None and candidate.fused > 1.0:
        candidate.context -= candidate.fused - 1.0
        candidate.fused = 1.0
        candidate.decay = min(1.0, candidate.decay)
