"""Answer a question with the best passages of one user's memory, cited to the character.

Longer than 250 lines: the walk is read from top to bottom.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache

from django.conf import settings
from django.db import DataError
from pgvector import HalfVector

from memory import metrics
from memory.admission.deadline import deadline_at
from memory.admission.turns import query_turns
from memory.embedding.spaces import embedder_of
from memory.embedding.vectors import half_vectors
from memory.errors import is_ours
from memory.lexical.bm25 import lexical_query
from memory.lexical.speakers import about_speaker, speaker_id
from memory.limits import CANDIDATES_DEFAULT, TOP_K_DEFAULT
from memory.retrieval.candidate import Candidate
from memory.retrieval.dates import dates_in
from memory.retrieval.filters import Filters
from memory.retrieval.nearest import is_misfit
from memory.retrieval.open import open_candidates
from memory.retrieval.phrases import quoted_phrases
from memory.retrieval.rank import PHRASE_CANDIDATES, Ranking, phrased_first
from memory.retrieval.relevance import Evidence
from memory.retrieval.rerank import NOT_REQUESTED, rerank_candidates, rerank_pool_size
from memory.retrieval.sealed import SealedRows
from memory.retrieval.search import Search
from memory.retrieval.surroundings import Surroundings
from memory.rls import bound_tenant, tenant_transaction
from memory.rollout.variants import PIPELINES, Pipeline, variant_in_use
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile
from memory.sealing.protection import protect
from memory.sealing.quarantine import quarantine_misfits
from memory.services.stopwatch import Stopwatch

# What is timed, whether or not the user has anything.
STAGES = ("embed", "ann", "open", "rerank")


@dataclass(frozen=True)
class MemoryQuery:
    """A question and how to answer it; None means the deployment's default.

    `context`: threads, dates and speakers have a say. `speaker`: only what this one said. `now`, aware: what the dates
    in the question count from; None is the present. `min_score`, of the last stage that ran, and `min_vector`: the
    least that a result may have, None for any. `dates` and `speakers` say whether each of them has its say in the
    context; no client asks for less than both.
    """

    text: str
    top_k: int = TOP_K_DEFAULT
    candidates: int = CANDIDATES_DEFAULT
    rerank_pool: int | None = None
    rerank: bool = True
    filters: Filters = field(default_factory=Filters)
    half_life_days: float | None = None
    decay_weight: float | None = None
    min_score: float | None = None
    min_vector: float | None = None
    context: bool = True
    speaker: str | None = None
    now: datetime | None = None
    surroundings: int = 0
    dates: bool = True
    speakers: bool = True


@dataclass(frozen=True)
class MemoryAnswer:
    """Ranked passages, opened, with what the pipeline did on the way. Times in milliseconds.

    `relevant`: whether anything that is remembered answers the question, whatever the results are.
    """

    results: list[Candidate]
    relevant: bool
    candidates: int
    reranked: bool
    rerank: dict
    variant: str
    degraded: list[str]
    took_ms: dict[str, float]


@dataclass(frozen=True)
class _Searched:
    """What the search brought: those that go on, in answer order and with what is sealed of them; what opens them.

    `evidence` and `count` are of all that were found, before any were dropped; `surroundings`: what stands beside those
    that go on; `quarantined`: some of the user's rows are.
    """

    profile: TenantProfile
    ranked: list[Candidate]
    evidence: Evidence
    count: int
    surroundings: Surroundings | None
    quarantined: bool


def query_memory(query: MemoryQuery) -> MemoryAnswer:
    """Answer `query` from the bound tenant's memory.

    1. In the user's turn, as are the steps up to 6: his profile, cached: his keys and his space. Who has none has no
       memory.
    2. Have that space's model embed the question, without the name of the one speaker it is about. Where others' texts
       wait for the model, wait too; no database connection is held.
    3. Search: both legs' candidates and what stands beside them in their threads, in one short transaction that
       verifies the profile. Where nobody else waits for the model, the words are looked up while it embeds.
    4. Still in it: fuse the legs' scores, let threads, dates and speakers have their say and old passages decay; bring
       the sealed blobs of those that go on, and what stands beside them where that is asked for.
    5. Open the few that go on, and where the question quotes a phrase at least the best PHRASE_CANDIDATES: those of
       them that hold it word for word go before all others.
    6. Judge whether anything found answers the question, before recency had a say.
    7. Rerank what goes on, or say why not; drop what scores less than is asked for.
    8. Open what stands beside the results.
    9. Answer.

    Of the user's variant: the stable one is without words, context and reranking. Raises Overloaded, KeyUnavailable,
    DecryptionFailed, SpaceMismatch, and database errors.
    """
    return _answer(query, variant_in_use(bound_tenant()), Stopwatch())


def query_measured(query: MemoryQuery) -> MemoryAnswer:
    """`query_memory` as the endpoint of queries has it: with its time in the metrics, unless its user made it fail."""
    variant, watch = variant_in_use(bound_tenant()), Stopwatch()
    try:
        answer = _answer(query, variant, watch)
    except Exception as exc:
        if is_ours(exc):
            _observe(variant, watch.total())
        raise
    metrics.query_candidates.inc(answer.candidates)
    if answer.rerank["skipped"] not in (None, NOT_REQUESTED):
        metrics.rerank_skipped.labels(answer.rerank["skipped"]).inc()
    _observe(variant, answer.took_ms)
    return answer


def _observe(variant: str, took_ms: dict[str, float]) -> None:
    for stage, elapsed_ms in took_ms.items():
        metrics.query_latency_ms.labels(stage, variant).observe(elapsed_ms)


def _answer(query: MemoryQuery, variant: str, watch: Stopwatch) -> MemoryAnswer:
    pipeline = PIPELINES[variant]
    query = replace(query, context=query.context and pipeline.has_context, rerank=query.rerank and pipeline.has_rerank)
    with query_turns().taking(bound_tenant()):
        searched = under_profile(bound_tenant(), lambda profile: _search(profile, query, pipeline, watch))
        pool, relevant, quarantined, candidates = [], False, False, 0
        if searched is not None:
            quarantined, candidates = searched.quarantined, searched.count
            pool = _opened_pool(searched, query)
            watch.lap("open")
            relevant = searched.evidence.is_enough(searched.profile, query.text)
            watch.lap("ann")

    reranked = rerank_candidates(query.text, pool, wanted=query.rerank, user=bound_tenant())
    # A quoted phrase is a demand: reranking orders those that meet it, and then those that do not.
    least = 0.0 if query.min_score is None else query.min_score
    good = [candidate for candidate in reranked.candidates if candidate.score >= least]
    results = sorted(good, key=lambda candidate: not candidate.phrased)[: query.top_k]
    watch.lap("rerank")
    if searched is not None and searched.surroundings is not None:
        searched.surroundings.give(searched.profile, results)
        watch.lap("open")

    took_ms = dict.fromkeys(STAGES, 0.0) | watch.total()
    return MemoryAnswer(
        results=results,
        relevant=relevant,
        candidates=candidates,
        reranked=reranked.is_reranked,
        rerank={"backend": reranked.backend, "skipped": reranked.skipped},
        variant=variant,
        degraded=["quarantined"] if quarantined else [],
        took_ms=took_ms,
    )


def _search(profile: TenantProfile, query: MemoryQuery, pipeline: Pipeline, watch: Stopwatch) -> _Searched:
    """Steps 2 to 4. Raises StaleKeys where the profile does not stand."""
    user_hash = profile.user_hash
    about = about_speaker(profile, query.text) if query.context and query.speakers else None
    embedder = embedder_of(profile.space)
    question = query.text if about is None else about.rest
    # Then it takes milliseconds, in which the words are looked up; behind others' texts no connection waits for it.
    is_free = not embedder.queued_tokens
    embedding = embedder.ask_query(question, deadline=deadline_at(), user=user_hash)

    @cache
    def vector() -> HalfVector:
        watch.lap("ann")
        unit = embedding()[None, :]
        watch.lap("embed")
        return half_vectors(protect(profile.search_key, unit))[0]

    lexical = None
    if settings.MEMORY_LEXICAL and pipeline.has_words:
        lexical = lexical_query(profile.search_key, query.text, settings.MEMORY_LEXICAL_LANGUAGE)
    filters = query.filters
    if query.speaker is not None:
        filters = replace(filters, speaker=speaker_id(profile.search_key, query.speaker))
    ranking = Ranking(
        context=query.context,
        dates=dates_in(query.text, query.now or datetime.now(UTC)) if query.context and query.dates else [],
        speaker=None if about is None else about.speaker,
        half_life_days=settings.MEMORY_HALF_LIFE_DAYS if query.half_life_days is None else query.half_life_days,
        decay_weight=settings.MEMORY_DECAY_WEIGHT if query.decay_weight is None else query.decay_weight,
        min_vector=query.min_vector,
    )
    # A quoted phrase is looked for in more than go on.
    opening = max(_pool_size(query), PHRASE_CANDIDATES) if quoted_phrases(query.text) else _pool_size(query)

    def search() -> _Searched:
        wanted = vector if is_free else vector()
        with tenant_transaction(user_hash) as tx:
            limit = max(query.candidates, query.top_k)
            legs = Search(
                tx, profile.space, wanted, limit, filters, lexical,
                context=query.context, has_own_index=profile.has_own_index,
            )  # fmt: skip
            profile.verify(tx)
            found = legs.found()
            ranked = ranking.of(found, opening)
            evidence = Evidence.of(found, ranked.fused, legs.idf)
            sealed = SealedRows(tx, profile.space, [*ranked.best, *(evidence.passages if evidence.is_doubtful else ())])
            surroundings = None
            if query.surroundings:
                surroundings = Surroundings(tx, profile.space, ranked.best, query.surroundings)
            tx.end()
            sealed.bring()
            return _Searched(profile, ranked.best, evidence, len(found), surroundings, legs.quarantined())

    try:
        searched = search()
    except DataError as exc:
        if not is_misfit(exc):
            raise
        # Somebody changed a stored vector: one of another dimension cannot be compared with any question. Once more
        # even where none was left to quarantine: another request may have done it a moment ago.
        quarantine_misfits(user_hash, profile.space)
        searched = search()
    watch.lap("ann")
    return searched


def _pool_size(query: MemoryQuery) -> int:
    """How many go on to the reranker, or to the answer without it."""
    return max(query.top_k, query.rerank_pool or rerank_pool_size()) if query.rerank else query.top_k


def _opened_pool(searched: _Searched, query: MemoryQuery) -> list[Candidate]:
    """Step 5: what goes on to the reranker, opened."""
    ranked, phrases = searched.ranked, quoted_phrases(query.text)
    # In one step, so that all damage is quarantined by one failure: what goes first for its phrase is among these.
    opened = {candidate.chunk_id: candidate for candidate in ranked}
    if searched.evidence.is_doubtful:
        opened |= {passage.chunk_id: passage for passage in searched.evidence.passages}
    open_candidates(searched.profile, opened.values())
    return (phrased_first(ranked, phrases) if phrases else ranked)[: _pool_size(query)]
