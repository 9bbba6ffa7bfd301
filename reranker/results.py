"""What a rerank gives back, and the reasons it may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Reason = Literal[
    "empty",  # there are no candidates; counted neither as reranked nor as skipped
    "disabled",  # the caller switched it off
    "no_backend",  # no weights, or backend "none"
    "loading",  # the model is not ready yet
    "circuit_open",  # the model was slow or failing a moment ago, or is stuck
    "deadline",  # this call alone needs longer than it has
    "overloaded",  # what waits before it leaves it too little time, or the queue is full
    "timeout",  # admitted, and not done in time
    "out_of_memory",
    "device_error",
    "tokenizer_error",
    "error",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class RerankSkipped(Exception):
    """The candidates were not reranked; `reason` is one of `REASONS`.

    The message is for operators and never holds a query's or a candidate's text.
    """

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class RerankedResult:
    """A candidate as it was passed in; `score` is 0-1, higher is better; `rank` counts from 1."""

    candidate: Any
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class RerankOutcome(Sequence[Any]):
    """Candidates in the order to show, and how that order came about: a sequence of the candidates as passed in.

    `results` has them with score and rank. `backend` is what ran or was asked (`none` where nothing could be);
    `skipped` is a `Reason` where the order is the candidates' own.
    """

    results: list[RerankedResult]
    reranked: bool
    backend: str
    skipped: Reason | None
    took_ms: float

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [result.candidate for result in self.results[index]]
        return self.results[index].candidate


def candidate_order(candidates: Sequence[Any]) -> list[RerankedResult]:
    """The candidates as they came, the i-th of n with score `1 - i / n` (i from 0)."""
    n = len(candidates)
    return [RerankedResult(candidate, 1 - i / n, i + 1) for i, candidate in enumerate(candidates)]
