"""Evaluate one collection through the service: index it for a throw-away user, then rank it in every combination.

`dense` and `lexical` are read from one search of LEG_CANDIDATES candidates a leg, from the candidates' own
distance and BM25 score; the product has no switch that turns a leg off. All other stages are answers of
`query_memory` with the product's defaults, but for what STAGES says. Documents are ranked by their best passage.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from memory.embedding.spaces import embedder_of
from memory.embedding.vectors import half_vectors
from memory.evaluation.collections import Collection
from memory.evaluation.measures import distinct
from memory.evaluation.throwaway import ThrowAwayUser
from memory.indexing.seal import DocumentDraft
from memory.lexical.bm25 import lexical_query
from memory.lexical.terms import terms
from memory.limits import CANDIDATES_DEFAULT
from memory.retrieval.candidate import Candidate
from memory.retrieval.filters import Filters
from memory.retrieval.rerank import rerank_pool_size
from memory.retrieval.search import Search
from memory.rls import bind_tenant, bound_tenant, tenant_transaction
from memory.sealing.keyring import existing_profile
from memory.sealing.protection import protect
from memory.services.forget import delete_document
from memory.services.index import IndexedBatch, index_documents
from memory.services.query import MemoryAnswer, MemoryQuery, query_memory

LEG_CANDIDATES = 100
SOURCE = "evaluate"
SHUFFLE_SEED = 4
REWRITTEN_ONE_IN = 4  # of a shuffled run's documents: first stored with another text, half of them then deleted

DENSE, LEXICAL, FUSED, IN_CONTEXT, DECAYED = "dense", "lexical", "fused", "context, dates, speakers", "all + decay"
RERANKED_TOTAL = "reranked total"
ANSWERABLE, UNANSWERABLE, OF_ANOTHER_USER = "answerable", "unanswerable", "of another user"


@dataclass(frozen=True)
class Stage:
    """Answers of the service without reranking, with `fields` of MemoryQuery in place of the product's defaults."""

    name: str
    fields: Mapping[str, Any]


# In the pipeline's order: each has one thing more than the one before it, which it is held against.
STAGES = (
    Stage(FUSED, {"decay_weight": 0.0, "context": False}),
    Stage("context", {"decay_weight": 0.0, "dates": False, "speakers": False}),
    Stage("context, dates", {"decay_weight": 0.0, "speakers": False}),
    Stage(IN_CONTEXT, {"decay_weight": 0.0}),
    Stage(DECAYED, {}),
)
# What the reranked stage is given.
TO_RERANK = next(stage.name for stage in reversed(STAGES) if "decay_weight" in stage.fields)


@dataclass
class Ranked:
    """One run over all of a collection's users: document ids by stage and query, best first; times in milliseconds
    by step, in order.

    `distances` holds each query's nearest passages, by document and chunk index. `terms` are the different terms of
    the user who has most, `rerank_skipped` counts the queries that were not reranked, by reason. `relevant` says of
    each question asked, by where it is from, whether the service found it answerable.
    """

    rotated: bool
    chunks: int = 0
    rankings: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    distances: dict[str, dict[tuple[str, int], float]] = field(default_factory=dict)
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    terms: int = 0
    rerank_skipped: Counter[str] = field(default_factory=Counter)
    relevant: dict[str, list[bool]] = field(default_factory=dict)

    def rank(self, stage: str, query_id: str, passages: list[Candidate]) -> None:
        self.rankings.setdefault(stage, {})[query_id] = distinct(passage.doc_id for passage in passages)

    def time(self, prefix: str, took_ms: dict[str, float]) -> None:
        for step, elapsed_ms in took_ms.items():
            self.took_ms.setdefault(f"{prefix} {step}", []).append(elapsed_ms)

    def stages(self) -> list[str]:
        """The stages that ran, in order: one that reranked no query is none."""
        return [stage for stage in self.rankings if "rerank" not in stage or RERANKED_TOTAL in self.took_ms]

    def digest(self, stage: str) -> str:
        """SHA-256 (hex) of a stage's rankings: equal in two runs that ranked everything alike.

        Every run has a new key and with it a new rotation, which rounds the vectors in a new way; runs are
        equal to the last document where the vectors are not rotated, and in the lexical stage.
        """
        return hashlib.sha256(json.dumps(self.rankings[stage], sort_keys=True).encode()).hexdigest()


def run(
    collection: Collection, user: ThrowAwayUser, ranked: Ranked, *, others: Mapping[str, Sequence[str]] | None = None,
    ages_days: float = 0.0, shuffled: bool = False, progress: Callable[[str, int, int], object],
) -> None:  # fmt: skip
    """Index `collection` as `user` and rank every query in every stage, into `ranked`.

    `others`: questions, by where they are from, that the user is asked too and that nothing of the collection answers.

    All documents that have no time of their own are equally old, so that decay changes nothing, unless `ages_days`
    spreads their ages evenly between 0 and so many days, in an order that has to do with nothing. `shuffled` indexes
    in random order, with rewrites and deletes in between. `progress` gets what is under way, how many of it are done,
    and of how many.
    """
    _index(collection, user, ranked, ages_days=ages_days, shuffled=shuffled, progress=progress)
    label = f"asking {collection.name}" + ("" if user.rotated else ", unrotated")
    user.call(query_memory, MemoryQuery(next(iter(collection.queries.values()))))  # the first one warms up
    progress(label, 0, len(collection.queries))
    # Who asks about a conversation does so at its end.
    now = max((turn.created_at for turn in collection.turns.values() if turn.created_at), default=None)
    for asked, (query_id, text) in enumerate(collection.queries.items(), 1):
        _ask(user, ranked, query_id, text, now)
        progress(label, asked, len(collection.queries))
    for origin, questions in (others or {}).items():
        for asked, text in enumerate(questions, 1):
            answer = user.call(query_memory, MemoryQuery(text, rerank=False))
            ranked.relevant.setdefault(origin, []).append(answer.relevant)
            progress(f"asking {collection.name}, {origin}", asked, len(questions))
    if settings.MEMORY_LEXICAL:
        language = settings.MEMORY_LEXICAL_LANGUAGE
        different = {term for text in collection.documents.values() for term in terms(text, language)}
        ranked.terms = max(ranked.terms, len(different))


def _index(
    collection: Collection, user: ThrowAwayUser, ranked: Ranked, *, ages_days: float, shuffled: bool,
    progress: Callable[[str, int, int], object],
) -> None:  # fmt: skip
    """Index the collection, one document a call."""
    now = datetime.now(UTC)
    order = list(collection.documents)
    shuffle = random.Random(SHUFFLE_SEED)
    shuffle.shuffle(order)
    ages = {doc_id: ages_days * position / max(1, len(order) - 1) for position, doc_id in enumerate(order)}
    doc_ids = order if shuffled else list(collection.documents)

    def store(doc_id: str, text: str) -> IndexedBatch:
        turn = collection.turn(doc_id)
        draft = DocumentDraft(
            doc_id, SOURCE, text, thread_id=turn.thread_id, sequence=turn.sequence, speaker=turn.speaker,
            created_at=turn.created_at or now - timedelta(days=ages[doc_id]),
        )  # fmt: skip
        return user.call(index_documents, user.user_id, [draft])

    label = f"indexing {collection.name}" + ("" if user.rotated else ", unrotated")
    progress(label, 0, len(doc_ids))
    for position, doc_id in enumerate(doc_ids):
        if shuffled and position % REWRITTEN_ONE_IN == 0:
            store(doc_id, "Not the text that counts. " + collection.documents[shuffle.choice(order)])
            if position % (2 * REWRITTEN_ONE_IN) == 0:
                # Once, not by `user.call`, which does again what it did under a key that was forgotten meanwhile.
                with bind_tenant(user.user_hash):
                    delete_document(doc_id)
        stored = store(doc_id, collection.documents[doc_id])
        ranked.chunks += len(stored.documents[0].chunk_ids)
        ranked.time("index", stored.took_ms)
        progress(label, position + 1, len(doc_ids))


def _ask(user: ThrowAwayUser, ranked: Ranked, query_id: str, text: str, now: datetime | None) -> None:
    """Rank one query in every stage, asked at `now`. The timed call asks as the product's clients do."""
    legs = user.call(search_legs, text)
    nearest = sorted(legs, key=lambda c: (c.distance, c.doc_id, c.chunk_index))[:LEG_CANDIDATES]
    ranked.rank(DENSE, query_id, nearest)
    ranked.distances[query_id] = {(c.doc_id, c.chunk_index): c.distance for c in nearest[:CANDIDATES_DEFAULT]}
    if settings.MEMORY_LEXICAL:
        hits = sorted((c for c in legs if c.bm25), key=lambda c: (-c.bm25, c.doc_id, c.chunk_index))
        ranked.rank(LEXICAL, query_id, hits[:LEG_CANDIDATES])  # more came along with the other leg

    given: list[Candidate] = []
    for stage in STAGES:
        asked = MemoryQuery(text, top_k=CANDIDATES_DEFAULT, rerank=False, now=now, **stage.fields)
        answer: MemoryAnswer = user.call(query_memory, asked)
        ranked.rank(stage.name, query_id, answer.results)
        if stage.name == TO_RERANK:
            given = answer.results

    plain: MemoryAnswer = user.call(query_memory, MemoryQuery(text, rerank=False, now=now))
    ranked.time("query", plain.took_ms)
    ranked.relevant.setdefault(ANSWERABLE, []).append(plain.relevant)

    reranked: MemoryAnswer = user.call(
        query_memory, MemoryQuery(text, top_k=rerank_pool_size(), decay_weight=0.0, now=now)
    )
    # What the reranker did not see stays behind it, in the order it had; where it was skipped, so does everything.
    ranked.rank(f"{TO_RERANK} + rerank ({reranked.rerank['backend']})", query_id, reranked.results + given)
    if reranked.reranked:
        ranked.time("reranked", {step: ms for step, ms in reranked.took_ms.items() if step in ("rerank", "total")})
    else:
        ranked.rerank_skipped[reranked.rerank["skipped"]] += 1


def search_legs(text: str, candidates: int = LEG_CANDIDATES) -> list[Candidate]:
    """The bound tenant's candidates of both legs, `candidates` a leg, by the service's own search, unopened."""
    user_hash = bound_tenant()
    profile = existing_profile(user_hash)
    if profile is None:
        return []
    embedder = embedder_of(profile.space)
    vector = half_vectors(protect(profile.search_key, embedder.embed_query(text, user=user_hash)[None, :]))[0]
    lexical = None
    if settings.MEMORY_LEXICAL:
        lexical = lexical_query(profile.search_key, text, settings.MEMORY_LEXICAL_LANGUAGE)
    with tenant_transaction(user_hash) as tx:
        search = Search(tx, profile.space, vector, candidates, Filters(), lexical, context=False)
        return search.candidates()
