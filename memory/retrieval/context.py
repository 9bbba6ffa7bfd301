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

import numpy as np

from memory.retrieval.candidate import Candidate
from memory.retrieval.date_spans import DateSpan
from memory.retrieval.found import SPEAKER, THREAD_ID, Found
from memory.retrieval.fuse import fuse

DATE_WEIGHT = 0.2
DATE_FADE_DAYS = 15.0
OTHER_SPEAKER = 0.65


def in_context(
    found: Found, chosen: np.ndarray, fused: np.ndarray, dates: Sequence[DateSpan], speaker: int | None
) -> np.ndarray | None:
    """float64[c]: the `fused` scores of c chunks, the `chosen` ones of `found`, moved; None where nothing has a say.

    `dates`: those in the question; `speaker`: the blind id of the one that it is about. Scores can pass 1, by
    DATE_WEIGHT at most, so that two of them still differ: `cap` ends that once they are in order.
    """
    rows = found.rows
    has_dates = bool(dates) and any(rows[nth][THREAD_ID] is not None for nth in chosen)
    if found.spread_bm25 is None and not has_dates and speaker is None:
        return None
    moved = fused
    if found.spread_bm25 is not None:
        _, moved = fuse(found.vectors[chosen], found.spread_bm25[chosen])
    if has_dates:
        outside = [min(span.days_outside(found.moment(nth)) for span in dates) for nth in chosen]
        moved = moved + [DATE_WEIGHT * math.exp(-days / DATE_FADE_DAYS) for days in outside]
    if speaker is not None:
        is_others = [rows[nth][SPEAKER] not in (None, speaker) for nth in chosen]
        moved = np.where(is_others, moved * OTHER_SPEAKER, moved)
    return moved


def cap(candidate: Candidate) -> None:
    """Make what `in_context` has moved, and the score after decay, 1 at most."""
    if candidate.context is not None and candidate.fused > 1.0:
        candidate.context -= candidate.fused - 1.0
        candidate.fused = 1.0
        candidate.decay = min(1.0, candidate.decay)
