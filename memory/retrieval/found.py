"""What a search has found, in columns: a chunk is made an object only where it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from uuid import UUID

import numpy as np

from memory.formats.moments import moment_of
from memory.retrieval.candidate import Candidate
from memory.retrieval.neighbours import COLUMNS

# Where a column stands in a row; behind what is known of it stands its distance.
CHUNK_ID, DOC_ID, CHUNK_INDEX, THREAD_ID, CREATED_AT, SPEAKER = (
    COLUMNS.index(name) for name in ("id", "doc_id", "chunk_index", "thread_id", "created_at", "speaker")
)
DISTANCE = len(COLUMNS)


@dataclass(frozen=True, eq=False)
class Found:
    """n chunks of one user, each once, the nearest first, those without a distance (NaN) anywhere.

    `rows` begin with what SENT says of each, and its distance: cosine, 0-2. `bm25`: float64[n], 0 where no term of the
    question occurs, None where no words were looked for; `spread_bm25`: float64[n], the same with the neighbours in
    each one's thread, None where none has any.
    """

    rows: list[tuple]
    bm25: np.ndarray | None = None
    spread_bm25: np.ndarray | None = None
    _made: dict[int, Candidate] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def distances(self) -> np.ndarray:
        """float64[n]."""
        return np.array([row[DISTANCE] for row in self.rows], np.float64)

    @cached_property
    def vectors(self) -> np.ndarray:
        """float64[n], 0-1: the cosine, and 0 where it is below, or where a vector has no direction (NaN)."""
        return np.fmin(1.0, np.fmax(0.0, 1.0 - self.distances))

    @cached_property
    def created_at(self) -> np.ndarray:
        """int64[n], in microseconds since 1970."""
        return np.array([row[CREATED_AT] for row in self.rows], np.int64)

    def moment(self, nth: int) -> datetime:
        """When the `nth` chunk was created; aware."""
        return moment_of(self.rows[nth][CREATED_AT])

    def candidate(self, nth: int) -> Candidate:
        """The `nth` chunk, the same object each time, with what the legs measured; the stages' scores are not set."""
        if nth not in self._made:
            known = dict(zip(COLUMNS, self.rows[nth], strict=False))
            self._made[nth] = Candidate(
                chunk_id=UUID(bytes=known["id"]), doc_id=known["doc_id"], chunk_index=known["chunk_index"],
                source=known["source"], thread_id=known["thread_id"], start=known["char_start"], end=known["char_end"],
                created_at=self.moment(nth), sequence=known["sequence"], generation=known["generation"],
                distance=self.rows[nth][DISTANCE],
                bm25=None if self.bm25 is None else float(self.bm25[nth]),
                spread_bm25=None if self.spread_bm25 is None else float(self.spread_bm25[nth]),
                speaker_id=known["speaker"],
                vector=float(self.vectors[nth]),
            )  # fmt: skip
        return self._made[nth]

    def candidates(self) -> list[Candidate]:
        """All of them."""
        return [self.candidate(nth) for nth in range(len(self))]
