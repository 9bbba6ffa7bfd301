"""From what the search brought to answer order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter

import numpy as np

from memory.retrieval.candidate import Candidate
from memory.retrieval.context import cap, set_context
from memory.retrieval.date_spans import DateSpan
from memory.retrieval.decay import decayed
from memory.retrieval.fuse import fuse
from memory.retrieval.phrases import holds_phrases

# A phrase is looked for in so many passages, each of which must be opened for it.
PHRASE_CANDIDATES = 50


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

    def of(self, candidates: list[Candidate]) -> list[Candidate]:
        """`candidates`, the nearest first, fused, in context, decayed and in answer order; ties stay as they came."""
        if self.min_vector is not None:
            candidates = [candidate for candidate in candidates if candidate.vector >= self.min_vector]
        now = datetime.now(UTC)
        fuse(candidates)
        if self.context:
            set_context(candidates, self.dates, self.speaker)
        faded = decayed(
            np.array([candidate.fused for candidate in candidates]),
            np.array([(now - candidate.created_at).total_seconds() for candidate in candidates]),
            half_life_days=self.half_life_days,
            weight=self.decay_weight,
        )
        for candidate, score in zip(candidates, faded.tolist(), strict=True):
            candidate.decay = score
        ranked = sorted(candidates, key=attrgetter("decay"), reverse=True)
        for candidate in ranked:
            if candidate.context is not None:
                cap(candidate)
        return ranked


def phrased_first(ranked: list[Candidate], phrases: list[str]) -> list[Candidate]:
    """Those of the best PHRASE_CANDIDATES, opened, that hold all `phrases`, then the others, each in their order."""
    best = ranked[:PHRASE_CANDIDATES]
    for candidate in ranked:
        candidate.phrased = False
    for candidate in best:
        candidate.phrased = holds_phrases(candidate.text, phrases)
    return sorted(ranked, key=lambda candidate: not candidate.phrased)
