"""From what the search brought to answer order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from memory.formats.moments import microseconds
from memory.retrieval.candidate import Candidate
from memory.retrieval.context import cap, in_context
from memory.retrieval.date_spans import DateSpan
from memory.retrieval.decay import decayed
from memory.retrieval.found import Found
from memory.retrieval.fuse import fuse
from memory.retrieval.phrases import holds_phrases

# A phrase is looked for in so many passages, each of which must be opened for it.
PHRASE_CANDIDATES = 50


@dataclass(frozen=True, eq=False)
class Ranked:
    """The `best` candidates, in answer order; `fused`: float64[n], the score, before context moved it, of each of the n
    that were found; 0 of those that `min_vector` dropped.
    """

    best: list[Candidate]
    fused: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """What has a say beside the legs: the question's `dates` and the blind id of the `speaker` that it is about, where
    `context` is wanted; the decay's half-life in days and weight, 0-1; the least `vector` score, None for any.
    """

    context: bool
    dates: Sequence[DateSpan]
    speaker: int | None
    half_life_days: float
    decay_weight: float
    min_vector: float | None

    def of(self, found: Found, count: int) -> Ranked:
        """`found` fused, in context and decayed; the `count` best in answer order, ties as they were found."""
        now = microseconds(datetime.now(UTC))
        chosen = np.arange(len(found))
        if self.min_vector is not None:
            chosen = np.flatnonzero(found.vectors >= self.min_vector)
        lexical, fused = fuse(found.vectors[chosen], None if found.bm25 is None else found.bm25[chosen])
        moved = in_context(found, chosen, fused, self.dates, self.speaker) if self.context else None
        scores = fused if moved is None else moved
        faded = decayed(
            scores,
            (now - found.created_at[chosen]) / 1e6,
            half_life_days=self.half_life_days,
            weight=self.decay_weight,
        )
        best = []
        for nth in np.argsort(-faded, kind="stable")[:count].tolist():
            candidate = found.candidate(int(chosen[nth]))
            candidate.lexical = None if lexical is None else float(lexical[nth])
            candidate.fused, candidate.decay = float(scores[nth]), float(faded[nth])
            if moved is not None:
                candidate.context = float(moved[nth] - fused[nth])
                cap(candidate)
            best.append(candidate)
        before_context = np.zeros(len(found))
        before_context[chosen] = fused
        return Ranked(best, before_context)


def phrased_first(ranked: list[Candidate], phrases: list[str]) -> list[Candidate]:
    """Those of the best PHRASE_CANDIDATES, opened, that hold all `phrases`, then the others, each in their order."""
    best = ranked[:PHRASE_CANDIDATES]
    for candidate in ranked:
        candidate.phrased = False
    for candidate in best:
        candidate.phrased = holds_phrases(candidate.text, phrases)
    return sorted(ranked, key=lambda candidate: not candidate.phrased)
