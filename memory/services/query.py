"""Answer a question with the best passages of one user's memory, cited to the character."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.conf import settings
from django.db import DataError

from memory import metrics
from memory.admission.deadline import deadline_at
from memory.admission.turns import query_turns
from memory.embedding.spaces import embedder_of
from memory.embedding.vectors import half_vectors, unit_vectors
from memory.lexical.bm25 import lexical_query
from memory.limits import CANDIDATES_DEFAULT, TOP_K_DEFAULT
from memory.retrieval.candidate import Candidate
from memory.retrieval.decay import decayed
from memory.retrieval.fuse import fuse
from memory.retrieval.open import open_candidates
from memory.retrieval.phrases import holds_phrases, quoted_phrases
from memory.retrieval.rerank import rerank_candidates, rerank_pool_size
from memory.retrieval.search import Filters, Search, is_misfit
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile
from memory.sealing.protection import protect
from memory.sealing.quarantine import quarantine_misfits
from memory.services.stopwatch import Stopwatch

VARIANT = "r1"
# What is timed, whether or not the user has anything.
STAGES = ("embed", "ann", "open", "rerank")
# A phrase is looked for in so many passages, each of which must be opened for it.
PHRASE_CANDIDATES = 50


@dataclass(frozen=True)
class MemoryQuery:
    """A question and how to answer it; None means the deployment's default."""

    text: str
    top_k: int = TOP_K_DEFAULT
    candidates: int = CANDIDATES_DEFAULT
    rerank_pool: int | None = None
    rerank: bool = True
    filters: Filters = field(default_factory=Filters)
    half_life_days: float | None = None
    decay_weight: float | None = None
    min_score: float | None = None


@dataclass(frozen=True)
class MemoryAnswer:
    """Ranked passages, opened, with what the pipeline did on the way. Times in milliseconds."""

    results: list[Candidate]
    candidates: int
    reranked: bool
    rerank: dict
    variant: str
    degraded: list[str]
    took_ms: dict[str, float]


@dataclass(frozen=True)
class _Found:
    """What the search brought, the profile that opens it, and whether some of the user's rows are quarantined."""

    profile: TenantProfile
    candidates: list[Candidate]
    quarantined: bool


def query_memory(query: MemoryQuery) -> MemoryAnswer:
    """Answer `query` from the bound tenant's memory.

    1. In the user's turn, as are the steps up to 5: his profile, cached: his keys and his space. Who has none has no
       memory.
    2. Embed the question with that space's model; no database connection is held.
    3. Search: both legs' candidates with their sealed blobs, in one short transaction that verifies the profile.
    4. Fuse the legs' scores and let old passages decay.
    5. Open the few that go on, and where the question quotes a phrase at least the best PHRASE_CANDIDATES: those of
       them that hold it word for word go before all others.
    6. Rerank them, or say why not.
    7. Answer.

    Raises Overloaded, KeyUnavailable, DecryptionFailed, SpaceMismatch, and database errors.
    """
    watch = Stopwatch()
    with query_turns().taking(bound_tenant()):
        found = under_profile(bound_tenant(), lambda profile: _search(profile, query, watch))
        pool, quarantined, candidates = [], False, 0
        if found is not None:
            quarantined, candidates = found.quarantined, len(found.candidates)
            pool_size = max(query.top_k, query.rerank_pool or rerank_pool_size()) if query.rerank else query.top_k
            pool = _opened_pool(found, query, pool_size)
    watch.lap("open")

    reranked = rerank_candidates(query.text, pool, wanted=query.rerank, user=bound_tenant())
    # A quoted phrase is a demand: reranking orders those that meet it, and then those that do not.
    results = sorted(reranked.candidates, key=lambda candidate: not candidate.phrased)[: query.top_k]
    watch.lap("rerank")

    took_ms = dict.fromkeys(STAGES, 0.0) | watch.total()
    metrics.query_candidates.inc(candidates)
    for stage, elapsed_ms in took_ms.items():
        metrics.query_latency_ms.labels(stage, VARIANT).observe(elapsed_ms)
    return MemoryAnswer(
        results=results,
        candidates=candidates,
        reranked=reranked.is_reranked,
        rerank={"backend": reranked.backend, "skipped": reranked.skipped},
        variant=VARIANT,
        degraded=["quarantined"] if quarantined else [],
        took_ms=took_ms,
    )


def _search(profile: TenantProfile, query: MemoryQuery, watch: Stopwatch) -> _Found:
    """Steps 2 and 3. Raises StaleKeys where the profile does not stand."""
    user_hash = profile.user_hash
    embedder = embedder_of(profile.space)
    embedding = embedder.embed_query(query.text, deadline=deadline_at(), user=user_hash)
    unit = unit_vectors(embedding[None, :], rows=1, dimension=embedder.dimension)
    watch.lap("embed")

    vector = half_vectors(protect(profile.search_key, unit))[0]
    lexical = None
    if settings.MEMORY_LEXICAL:
        lexical = lexical_query(profile.search_key, query.text, settings.MEMORY_LEXICAL_LANGUAGE)

    def search() -> _Found:
        with tenant_transaction(user_hash) as tx:
            limit = max(query.candidates, query.top_k)
            found = Search(tx, profile.space, vector, limit, query.filters, lexical)
            tx.end()
            profile.verify(tx)
            return _Found(profile, found.candidates(), found.quarantined())

    try:
        found = search()
    except DataError as exc:
        if not is_misfit(exc):
            raise
        # Somebody changed a stored vector: one of another dimension cannot be compared with any question. Once more
        # even where none was left to quarantine: another request may have done it a moment ago.
        quarantine_misfits(user_hash, profile.space)
        found = search()
    watch.lap("ann")
    return found


def _opened_pool(found: _Found, query: MemoryQuery, pool_size: int) -> list[Candidate]:
    """Steps 4 and 5: what goes on to the reranker, opened."""
    ranked = _rank(found.candidates, query)
    phrases = quoted_phrases(query.text)
    # In one step, so that all damage is quarantined by one failure: what goes first for its phrase is among these.
    open_candidates(found.profile, ranked[: max(pool_size, PHRASE_CANDIDATES) if phrases else pool_size])
    return (_phrased_first(ranked, phrases) if phrases else ranked)[:pool_size]


def _rank(candidates: list[Candidate], query: MemoryQuery) -> list[Candidate]:
    """Fused, decayed and in answer order; ties go to the nearer, then by document and chunk index."""
    if query.min_score is not None:
        candidates = [candidate for candidate in candidates if candidate.vector >= query.min_score]
    fuse(candidates)
    now = datetime.now(UTC)
    half_life_days = settings.MEMORY_HALF_LIFE_DAYS if query.half_life_days is None else query.half_life_days
    weight = settings.MEMORY_DECAY_WEIGHT if query.decay_weight is None else query.decay_weight
    for candidate in candidates:
        age_seconds = (now - candidate.created_at).total_seconds()
        candidate.decay = decayed(candidate.fused, age_seconds, half_life_days=half_life_days, weight=weight)
    return sorted(candidates, key=lambda c: (-c.score, c.distance, c.doc_id, c.chunk_index))


def _phrased_first(ranked: list[Candidate], phrases: list[str]) -> list[Candidate]:
    """Those of the best PHRASE_CANDIDATES, opened, that hold all `phrases`, then the others, each in their order."""
    best = ranked[:PHRASE_CANDIDATES]
    for candidate in ranked:
        candidate.phrased = False
    for candidate in best:
        candidate.phrased = holds_phrases(candidate.text, phrases)
    return sorted(ranked, key=lambda candidate: not candidate.phrased)
