"""The bridge to `reranker`, which knows nothing of memory: settings and flags go in here."""

from __future__ import annotations

from dataclasses import dataclass

import reranker
from memory.retrieval.candidate import Candidate
from memory.retrieval.reranker_config import deployed_config
from memory.rollout.flags import flag
from reranker.backends.built_form import has_weights

NOT_REQUESTED = "not_requested"
WARM_SECONDS = 5.0
# Enough to say at once that nothing can be fetched.
FETCH_SECONDS = 0.2


@dataclass(frozen=True)
class Reranked:
    """Candidates in answer order; `skipped` is the reason where the order is their own."""

    candidates: list[Candidate]
    backend: str
    skipped: str | None

    @property
    def is_reranked(self) -> bool:
        return self.skipped is None


def rerank_candidates(question: str, pool: list[Candidate], *, wanted: bool, user: str = "") -> Reranked:
    """`pool` reranked within RERANK_CIRCUIT_MS, or as it is. Sets each candidate's `rerank` score; never raises.

    `user`, the tenant's hash, is whose turn it takes in the reranker's queue.
    """
    if not wanted:
        return Reranked(pool, "none", NOT_REQUESTED)
    outcome = reranker.maybe_rerank(
        question,
        pool,
        enabled=flag("RERANK_ENABLED"),
        timeout_ms=flag("RERANK_CIRCUIT_MS"),
        backend=flag("RERANK_BACKEND"),
        owner=user or None,
    )
    if not outcome.reranked:
        return Reranked(pool, outcome.backend, outcome.skipped)
    for result in outcome.results:
        result.candidate.rerank = result.score
    return Reranked([result.candidate for result in outcome.results], outcome.backend, None)


def rerank_pool_size() -> int:
    """How many candidates go to the reranker where the query does not say."""
    return flag("RERANK_POOL")


def warm_reranker() -> None:
    """Load the reranker's model. After the fork, once a worker.

    A load that takes longer than WARM_SECONDS goes on behind, and so does one whose weights must be fetched first:
    answers are in candidate order until then.
    """
    reranker.warm(WARM_SECONDS if has_weights(deployed_config()) else FETCH_SECONDS)
